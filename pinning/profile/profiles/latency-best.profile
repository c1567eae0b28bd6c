# The shortest delays that the host can give, whatever it costs in power. Some of it needs
# the kernel's command line; that is checked and said, never changed.
include: latency

cstate: 0                                      # no sleep state at all: a core is always awake
cmdline.isolcpus: want                         # managed interrupts stay away too, which nothing at run time can do
cmdline.nohz_full: want                        # the tick stops while one worker runs alone
cmdline.rcu_nocbs: want                        # callbacks of RCU run elsewhere
cmdline.irqaffinity: want                      # interrupts that come up at boot do so elsewhere
sysctl.kernel.watchdog_cpumask: ${housekeeping} # the lockup watchdog has a timer on every core that it watches
sysctl.vm.stat_interval: 120                   # a core's counters are folded every two minutes
