package xsk

import "errors"

// A Mesh is a whole layout opened in one process.
type Mesh struct {
	Owners  []*Owner // in the order of Layout.Owners
	Ports   []*Port  // by worker
	Sockets []Socket // all, with descriptors
}

// OpenMesh opens every socket of l and a port for every worker. The sockets receive
// nothing until they are in the XSKMAP of their interface.
func OpenMesh(l Layout) (*Mesh, error) {
	m := &Mesh{}
	var err error
	if m.Owners, err = OpenOwners(l); err != nil {
		return nil, err
	}
	members, err := OpenMembers(l, ownerFDs(m.Owners))
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	if m.Sockets, err = l.Assign(ownerFDs(m.Owners), members); err != nil {
		return nil, errors.Join(err, closeAll(members), m.Close())
	}
	for w := range l.Workers {
		p, err := NewPort(l, w, m.Owners, members, nil)
		if err != nil {
			for _, s := range m.Sockets { // those that no port has taken, the failed one aside
				if !s.Owner && s.Worker > w {
					err = errors.Join(err, closeAll([]int{s.FD}))
				}
			}
			return nil, errors.Join(err, m.Close())
		}
		m.Ports = append(m.Ports, p)
	}
	return m, nil
}

// Close closes all ports, then all owners. The workers must have stopped.
func (m *Mesh) Close() error {
	var errs []error
	for _, p := range m.Ports {
		errs = append(errs, p.Close())
	}
	m.Ports = nil
	return errors.Join(append(errs, closeOwners(m.Owners))...)
}
