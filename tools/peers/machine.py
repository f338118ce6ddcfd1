"""The machine that something is measured on, and how much of it others took meanwhile."""

import os
import resource
import time


def describe():
    """{what: value}: the processor's name, how many are there, GB of memory."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    with open("/proc/meminfo", encoding="ascii") as file:
        kilobytes = next(int(line.split()[1]) for line in file if line.startswith("MemTotal:"))
    return {"cpu": names[0] if names else "unknown", "cpus": os.cpu_count(), "memory_gb": round(kilobytes * 1024 / 1e9, 1)}


def busy_s(line):
    """CPU seconds that the first line of /proc/stat counts as used: by anyone, or withheld by the host."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(ticks) for ticks in line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _all_s():
    with open("/proc/stat", encoding="ascii") as file:
        return busy_s(file.readline())


def _own_s():
    """Of this process and of the children it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Others:
    """What other processes take from its creation on. Children begun before have to be waited for before `share`."""

    def __init__(self):
        self._begin, self._all, self._own = time.monotonic(), _all_s(), _own_s()

    def share(self):
        """Of all processors' time."""
        used = (_all_s() - self._all) - (_own_s() - self._own)
        return max(0.0, used / (time.monotonic() - self._begin) / os.cpu_count())
