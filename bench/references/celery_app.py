"""What a Celery user has: Redis as broker and result backend, a task that does nothing, everything else as by default."""
import os
import sys
import time

from celery import Celery

app = Celery("celery_app", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


@app.task
def noop(n):
    return {"n": n}


if __name__ == "__main__":
    # Enqueues as many as it is told, one after another, and says how many a second.
    total = int(sys.argv[1])
    noop.delay(0).forget()
    started = time.monotonic()
    for _ in range(total):
        noop.delay(1)
    print(total / (time.monotonic() - started))
