# Many packets a second, with a host that is used for other things too.
include: safe

poll: irq                                      # the kernel's own batching costs least per packet
channels: workers                              # one queue for each worker: no two share a lock
rings: max                                     # a long ring outlasts a worker that is kept from its core
coalesce: adaptive-rx=1                        # one interrupt for many packets
feature.lro: off                               # merged packets are not what was sent, and XDP refuses them
rss: equal                                     # no queue gets more than its part
rps: off                                       # packets stay on the core that took them
xps: owner                                     # a worker sends by its own queue
irq: away                                      # workers are not interrupted by other devices
irqbalance: ban                                # or the interrupts come back ten seconds later
workqueue: away                                # kernel work runs where no worker is
governor: performance                          # a governor that follows load is late at every burst
hugepages.2M: 128                              # fewer misses of the TLB in tables and frames
sysctl.kernel.numa_balancing: 0                # unmapping pages to see who uses them stalls workers
thp: madvise                                   # arenas ask for huge pages themselves; others are not compacted for
