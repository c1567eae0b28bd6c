# Short and even delays, with what a running kernel can do: no reboot is needed.
include: throughput

poll: busy                                     # the worker polls the card itself: no wake-up, one core a queue
coalesce: adaptive-rx=0 rx-usecs=0             # a packet does not wait for others
feature.gro: off                               # packets are not kept back to be merged
feature.ntuple: on                             # flows can be given a queue
partition: isolated                            # the scheduler puts nothing else on the worker cores
napi.defer-hard-irqs: 100                      # as long as the worker polls, no interrupt
napi.gro-flush-timeout: 200000                 # and if it does not for 200 µs, the interrupt takes over
cstate: 1                                      # a core wakes in 1 µs: only the lightest sleep
epp: performance                               # the same for frequencies that the hardware chooses
sysctl.vm.stat_interval: 10                    # a core's counters are folded every 10 s, not every second
sysctl.kernel.timer_migration: 0               # timers of others do not move to a worker core that looks idle
sysctl.kernel.nmi_watchdog: 0                  # no performance counter interrupts the cores
sysctl.net.core.bpf_jit_enable: 1              # the XDP program runs as machine code
hold.dma-latency: on                           # where cores have no limit of their own, one for all
