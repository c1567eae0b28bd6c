package group

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/rdma/boot"
)

// DirDefault is where a box keeps its key, unless it is told otherwise.
const DirDefault = "/etc/headrace/group"

// Command returns `headrace group`.
func Command() *cobra.Command {
	c := &cobra.Command{
		Use:   "group",
		Short: "Make a group of boxes: keys, invitations, who the peers are",
		Long: `Boxes of a group know each other by their keys. This makes the keys, takes boxes in,
and prints the group section of the config. Nothing here talks to a running box but
'token --wait' and 'join'; a running box sees changes of its directory by itself.`,
		Example: `  a$ headrace group init --me a --address 10.0.0.1:9200
  a$ headrace group token --for b --wait
  b$ headrace group join --address 10.0.0.2:9200 --token hrj1.…
  a$ headrace group show >> headrace.yaml`,
	}
	c.AddCommand(initCommand(), tokenCommand(), joinCommand(), showCommand(), rotateCommand())
	return c
}

func dirFlag(c *cobra.Command) *string {
	return c.Flags().String("dir", DirDefault, "directory of the key and the peers")
}

// need makes a missing flag an error of usage.
func need(c *cobra.Command, names ...string) error {
	for _, name := range names {
		if f := c.Flags().Lookup(name); f.Value.String() == "" {
			return usage.Errorf(c.CommandPath(), "--%s is missing: %s", name, f.Usage)
		}
	}
	return nil
}

func initCommand() *cobra.Command {
	var id, address string
	c := &cobra.Command{
		Use:   "init",
		Short: "Make the key of the first box of a group",
		Long: `Make a directory with a key for this box, the first of a group, and print its group
section. The others come in by 'headrace group token' here and 'headrace group join' there.`,
		Example: `  headrace group init --me a --address 10.0.0.1:9200`,
		Args:    cobra.NoArgs,
	}
	dir := dirFlag(c)
	c.Flags().StringVar(&id, "me", "", "this box's id in the group: a to z, 0 to 9 and -")
	c.Flags().StringVar(&address, "address", "", "host:port at which the other boxes reach this one")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := need(c, "me", "address"); err != nil {
			return err
		}
		if err := checkPeer(id, address); err != nil {
			return usage.Wrap(c.CommandPath(), err)
		}
		d, err := Init(*dir, id, address)
		if err != nil {
			return fmt.Errorf("group init: %w", err)
		}
		return d.Section(c.OutOrStdout(), "")
	}
	return c
}

func tokenCommand() *cobra.Command {
	var (
		id, listen string
		life       time.Duration
		wait       bool
	)
	c := &cobra.Command{
		Use:   "token",
		Short: "Make a token with which one box may join, once",
		Long: `Print a token for the box that is to be called as --for says. It is good once and for a
short time, and it tells that box whom it talks to. Give it to 'headrace group join' there;
who has it can join in that box's name, so send it as you would a password.

A running headrace of this group lets the newcomer in. Where none runs, --wait does.
If there is a peer of that id, the newcomer takes its place and the old key is retired.`,
		Example: `  headrace group token --for b --wait
  headrace group token --for b --life 1h`,
		Args: cobra.NoArgs,
	}
	dir := dirFlag(c)
	c.Flags().StringVar(&id, "for", "", "id of the box that is to join")
	c.Flags().DurationVar(&life, "life", TokenLife, "how long the token is good")
	c.Flags().BoolVar(&wait, "wait", false, "listen until the token has been used or has expired")
	c.Flags().StringVar(&listen, "listen", "", "with --wait, the address to listen at (default: this box's own)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := need(c, "for"); err != nil {
			return err
		}
		if life <= 0 || life > tokenLifeMax {
			return usage.Errorf(c.CommandPath(), "--life is up to %v, not %v", tokenLifeMax, life)
		}
		if listen != "" && !wait {
			return usage.Errorf(c.CommandPath(), "--listen is for --wait")
		}
		if err := invite(c, *dir, id, listen, life, wait); err != nil {
			return fmt.Errorf("group token: %w", err)
		}
		return nil
	}
	return c
}

func invite(c *cobra.Command, dir, id, listen string, life time.Duration, wait bool) error {
	d, err := Open(dir)
	if err != nil {
		return err
	}
	var m *boot.Mesh
	if wait { // first, so that no token is made that nobody waits for
		if m, err = d.wait(listen); err != nil {
			return fmt.Errorf("%w (a running headrace of this group lets newcomers in by itself: leave out --wait)", err)
		}
		defer m.Close() //nolint:errcheck // nothing is lost with it
	}
	text, t, known, err := d.Issue(id, life)
	if err != nil {
		return err
	}
	if known {
		fmt.Fprintf(c.ErrOrStderr(), "%s is a peer already: who joins with this token takes its place\n", id)
	}
	if _, err := fmt.Fprintln(c.OutOrStdout(), text); err != nil {
		return err
	}
	if m == nil {
		return nil
	}
	fmt.Fprintf(c.ErrOrStderr(), "waiting at %v for %s until %s\n", m.Listening(), id, t.Expires.Local().Format(time.TimeOnly))
	if err := d.await(c.Context(), t); err != nil {
		if n := m.Refused()[boot.Token]; n > 0 {
			err = fmt.Errorf("%w; refused: %d", err, n)
		}
		return err
	}
	peers, err := d.Peers()
	if err != nil {
		return err
	}
	for _, p := range peers {
		if p.ID == id {
			fmt.Fprintf(c.ErrOrStderr(), "%s at %s has joined with pin %v\n", p.ID, p.Address, p.Pins)
		}
	}
	return nil
}

// wait lets newcomers in, and nobody else.
func (d *Dir) wait(listen string) (*boot.Mesh, error) {
	me, err := d.Me()
	if err != nil {
		return nil, err
	}
	peers, err := d.Peers()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(peers, func(p boot.Peer) bool { return p.ID == me })
	return boot.New(boot.Config{Me: me, Peers: peers[i : i+1], Listen: listen, Certificate: d.Certificate, Join: d.Admit})
}

// await returns when t has been used.
func (d *Dir) await(ctx context.Context, t *Token) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for d.open(t) {
		select {
		case <-ctx.Done():
			return errors.New("stopped while the token had not been used")
		case <-tick.C:
		}
	}
	if !time.Now().Before(t.Expires) {
		return errors.New("the token has expired unused")
	}
	return nil
}

func joinCommand() *cobra.Command {
	var id, address, to, token string
	c := &cobra.Command{
		Use:   "join",
		Short: "Join a group with a token",
		Long: `Make a key for this box, unless it has one, tell it to the box that made the token, learn
who the other boxes are, and print the group section. The box that made the token must be
running, or wait ('headrace group token --wait').`,
		Example: `  headrace group join --address 10.0.0.2:9200 --token hrj1.…
  ssh a headrace group token --for b --wait | headrace group join --address 10.0.0.2:9200 --token -`,
		Args: cobra.NoArgs,
	}
	dir := dirFlag(c)
	c.Flags().StringVar(&token, "token", "", "what 'headrace group token' printed; - reads it from standard input")
	c.Flags().StringVar(&address, "address", "", "host:port at which the other boxes reach this one")
	c.Flags().StringVar(&id, "me", "", "this box's id (default: the one that the token is for)")
	c.Flags().StringVar(&to, "to", "", "host:port of the box that made the token (default: the address in it)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := need(c, "token", "address"); err != nil {
			return err
		}
		if token == "-" { // so that it is in no list of processes
			line, err := bufio.NewReader(io.LimitReader(c.InOrStdin(), 4096)).ReadString('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("group join: standard input: %w", err)
			}
			token = strings.TrimSpace(line)
		}
		t, err := ParseToken(token)
		if err != nil {
			return usage.Wrap(c.CommandPath(), err)
		}
		if err := errors.Join(checkPeer(cmp.Or(id, t.For), address), checkPeer(t.ID, cmp.Or(to, t.Address))); err != nil {
			return usage.Wrap(c.CommandPath(), err)
		}
		d, err := Join(c.Context(), *dir, cmp.Or(id, t.For), address, cmp.Or(to, t.Address), token)
		if err != nil {
			return fmt.Errorf("group join: %w", err)
		}
		return d.Section(c.OutOrStdout(), "")
	}
	return c
}

// Join joins a group with a token: it makes the directory at path, unless it is there,
// and asks the token's maker, at the address to, to take us in.
func Join(ctx context.Context, path, id, address, to, token string) (*Dir, error) {
	t, err := ParseToken(token)
	if err != nil {
		return nil, err
	}
	d, err := Init(path, id, address)
	if errors.Is(err, ErrExists) {
		d, err = Open(path)
	}
	if err != nil {
		return nil, err
	}
	if me, err := d.Me(); err != nil || me != id {
		return nil, cmp.Or(err, fmt.Errorf("%s is the directory of %s, not of %s", path, me, id))
	}
	key, err := d.Certificate()
	if err != nil {
		return nil, err
	}
	pin, err := d.Pin()
	if err != nil {
		return nil, err
	}
	peers, err := boot.Join(ctx, to, t.Pin, key, boot.Request{ID: id, Address: address, Token: token})
	if err != nil {
		return nil, err
	}
	return d, d.change(func(f *file) error {
		for _, p := range peers {
			if p.ID == id {
				continue
			}
			e := f.entry(p.ID)
			e.Address, e.Pin = p.Address, p.Pins
			e.Retired = slices.DeleteFunc(e.Retired, func(pin string) bool { return slices.Contains(e.Pin, pin) })
		}
		e := f.entry(id)
		e.Address = address
		e.add(pin)
		return nil
	})
}

func showCommand() *cobra.Command {
	var me string
	c := &cobra.Command{
		Use:   "show",
		Short: "Print the group section of the config",
		Long: `Print the group section to paste into the config. It is the same on all boxes but for
'me': when the last box has joined, take it from the box that made the tokens.`,
		Example: `  headrace group show
  headrace group show --me b    # the same, for box b's config`,
		Args: cobra.NoArgs,
	}
	dir := dirFlag(c)
	c.Flags().StringVar(&me, "me", "", "for which box (default: this one)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		d, err := Open(*dir)
		if err == nil {
			err = d.Section(c.OutOrStdout(), me)
		}
		if err != nil {
			return fmt.Errorf("group show: %w", err)
		}
		return nil
	}
	return c
}

// Section writes the group section of the config of the box me; empty: of this box.
func (d *Dir) Section(w io.Writer, me string) error {
	f, err := d.load()
	if err != nil {
		return err
	}
	me = cmp.Or(me, f.Me)
	if f.find(me) == nil {
		return fmt.Errorf("no peer %q is in %s", me, d.at(filePeers))
	}
	path, err := filepath.Abs(d.path)
	if err != nil {
		return err
	}
	text := "group:\n  me: " + word(me) + "\n  dir: " + strconv.Quote(path) + "\n  peers:\n"
	for _, p := range f.list() {
		if p.Address == "" {
			text += "    # " + p.ID + " has pins here, but no address\n"
			continue
		}
		text += "    - id: " + word(p.ID) + "\n      address: " + strconv.Quote(p.Address) + "\n"
		switch len(p.Pins) {
		case 0:
			text += "      pin: []\n"
		case 1:
			text += "      pin: " + strconv.Quote(p.Pins[0]) + "\n"
		default:
			text += "      pin:\n"
			for _, pin := range p.Pins {
				text += "        - " + strconv.Quote(pin) + "\n"
			}
		}
	}
	_, err = io.WriteString(w, text)
	return err
}

// word quotes what YAML would not read as text.
func word(id string) string {
	letter := id[0] >= 'a' && id[0] <= 'z' || id[0] >= 'A' && id[0] <= 'Z'
	if letter && !slices.Contains([]string{"y", "n", "yes", "no", "on", "off", "true", "false", "null"}, strings.ToLower(id)) {
		return id
	}
	return strconv.Quote(id)
}

func rotateCommand() *cobra.Command {
	var (
		peer, pin string
		retire    bool
	)
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Change a box's key without a restart",
		Long: `Change this box's key in four steps; running boxes see each of them by themselves.

  1. here:      headrace group rotate                     makes the next key, prints its pin
  2. elsewhere: headrace group rotate --peer a --pin PIN  accepts that pin too
  3. here:      headrace group rotate --retire            changes to the next key
  4. elsewhere: headrace group rotate --peer a --retire --pin OLD   accepts that no more

Until step 4 both pins are good. Connections that are there go on through steps 1 to 3;
step 4 ends those that were made with the old key, and they are made anew. A key that may
be in other hands is refused at once by step 4 alone.`,
		Example: `  headrace group rotate
  headrace group rotate --peer a --pin sha256:…
  headrace group rotate --retire`,
		Args: cobra.NoArgs,
	}
	dir := dirFlag(c)
	c.Flags().BoolVar(&retire, "retire", false, "the old key is good no more")
	c.Flags().StringVar(&peer, "peer", "", "id of the box whose key changes (default: this one)")
	c.Flags().StringVar(&pin, "pin", "", "with --peer, the pin")
	c.RunE = func(c *cobra.Command, _ []string) error {
		switch {
		case peer == "" && pin != "":
			return usage.Errorf(c.CommandPath(), "--pin is for --peer")
		case peer != "" && pin == "" && !retire:
			return usage.Errorf(c.CommandPath(), "--peer needs --pin, or --retire")
		}
		d, err := Open(*dir)
		if err == nil {
			err = d.rotate(c.OutOrStdout(), peer, pin, retire)
		}
		if err != nil {
			return fmt.Errorf("group rotate: %w", err)
		}
		return nil
	}
	return c
}

func (d *Dir) rotate(w io.Writer, peer, pin string, retire bool) error {
	me, err := d.Me()
	if err != nil {
		return err
	}
	var retired []string
	switch {
	case peer != "" && retire:
		if retired, err = d.Distrust(peer, pin); err == nil {
			_, err = fmt.Fprintf(w, "retired of %s: %v\n", peer, retired)
		}
	case peer != "":
		if err = d.Trust(peer, pin); err == nil {
			_, err = fmt.Fprintf(w, "accepted of %s: %s\n", peer, pin)
		}
	case retire:
		if pin, retired, err = d.Retire(); err == nil {
			_, err = fmt.Fprintf(w, "key %s\nretired %v\non the other boxes:\n", pin, retired)
			for _, old := range retired { // by name: their configs may have it, and their directories not
				if err == nil {
					_, err = fmt.Fprintf(w, "  headrace group rotate --peer %s --retire --pin %s\n", me, old)
				}
			}
		}
	default:
		if pin, err = d.Rotate(); err == nil {
			_, err = fmt.Fprintf(w, "next key %s\non the other boxes: headrace group rotate --peer %s --pin %s\nthen here: headrace group rotate --retire\n", pin, me, pin)
		}
	}
	return err
}
