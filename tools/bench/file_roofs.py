"""How fast files can be read at most, by as many threads as the one compared: used by startup.py."""

import mmap
import os
import threading
import time

JOB_BYTES = 2 << 20  # whole huge pages: two threads in one would both clear it


def size_of(paths):
    return sum(os.path.getsize(path) for path in paths)


def evict(paths):
    """Out of the page cache: what was written goes to the disk first."""
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_all(paths, threads):
    """Reads every byte into small buffers; returns bytes per second."""
    buffers = [bytearray(JOB_BYTES) for _ in range(threads)]
    return _read(paths, threads, lambda thread, begin, size: memoryview(buffers[thread])[:size])


def copy_into_huge_pages(paths, threads):
    """Copies every byte into new memory of huge pages; returns bytes per second."""
    with mmap.mmap(-1, max(1, size_of(paths)), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        with memoryview(memory) as view:
            return _read(paths, threads, lambda _, begin, size: view[begin:begin + size])


def _read(paths, threads, place):
    """place(thread, byte among all files, size): where that many bytes from there go."""
    files = [open(path, "rb", buffering=0) for path in paths]
    jobs, total = [], 0
    for file in files:
        size = os.fstat(file.fileno()).st_size
        jobs += [(file.fileno(), at, total + at, min(JOB_BYTES, size - at)) for at in range(0, size, JOB_BYTES)]
        total += size
    jobs.reverse()
    failures = []

    def work(thread):
        while True:
            try:
                descriptor, offset, begin, size = jobs.pop()
            except IndexError:
                return
            with place(thread, begin, size) as to:
                if os.preadv(descriptor, [to], offset) != size:
                    failures.append(f"{descriptor} at {offset}: less than {size} bytes")

    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    start = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.monotonic() - start
    for file in files:
        file.close()
    if failures:
        raise RuntimeError(failures[0])
    return total / seconds
