# Nothing that another program on the host could notice: only settings of the worker
# cores themselves that bind nobody, and those that are taken back with the process.

hold.timestamping: on         # patching kernel code interrupts every core once; better now than amid traffic
