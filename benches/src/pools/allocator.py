# The pools of the Python package `redis-allocator`, for the bench: `… PORT`, then a question on each line of its input.
# Each is answered with one line of figures.
import random
import sys
import threading
import time

from redis import Redis
from redis_allocator import RedisAllocator

LEASE = 30
redis = Redis(port=int(sys.argv[1]), decode_responses=True, max_connections=256)
pool = RedisAllocator(redis, "bench", "pool")


def micros(since):
    return (time.perf_counter_ns() - since) / 1000


def timed(count, step):
    """Microseconds of each step."""
    figures = []
    for _ in range(int(count)):
        start = time.perf_counter_ns()
        step()
        figures.append(micros(start))
    return figures


def cycle():
    pool.free_keys(pool.malloc_key(LEASE))


def work(number, hold, until, turns):
    while time.perf_counter() < until:
        asked = time.perf_counter_ns()
        pause = 0.001
        # It does not wait, so its user does.
        while (member := pool.malloc_key(LEASE)) is None:
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, 0.128)
        waited, held = micros(asked), time.perf_counter_ns()
        time.sleep(hold)
        turns.append((number, waited, micros(held)))
        pool.free_keys(member)


def busy(workers, hold_ms, span_ms):
    """The seconds it took; then of each turn whose it was, and the microseconds it waited and held."""
    turns, start = [], time.perf_counter()
    workers = [
        threading.Thread(target=work, args=(n, float(hold_ms) / 1000, start + float(span_ms) / 1000, turns))
        for n in range(int(workers))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [time.perf_counter() - start] + [figure for turn in turns for figure in turn]


def assign(prefix, count):
    """The microseconds it took, and how many members there are then."""
    names = [f"{prefix}{n}" for n in range(int(count))]
    return timed(1, lambda: pool.assign(names)) + [len(pool.keys())]


def clear():
    pool.clear()
    return [len(pool.keys())]


questions = {
    "get": lambda count: timed(count, lambda: redis.get("nothing")),
    "cycle": lambda count: timed(count, cycle),
    "busy": busy,
    "assign": assign,
    "clear": clear,
}
for line in sys.stdin:
    question, *words = line.split()
    print(*questions[question](*words), flush=True)
