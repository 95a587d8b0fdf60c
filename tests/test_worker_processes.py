"""Worker processes: what they answer, what happens to the others when one dies, and how they end."""

import operator
import os
import signal
import time

import psutil
import pytest

from hpa_tf.errors import InputError
from hpa_tf.worker_processes import Pool, WorkerDied


@pytest.fixture(scope="module")
def pool():
    with Pool(2) as workers:
        yield workers


def test_answers_come_in_the_order_of_the_tasks_and_few_are_started_ahead(pool):
    begun = []

    def tasks():
        for i in range(12):
            begun.append(i)
            yield -i

    found = pool.map(abs, tasks(), limit=3)
    assert next(found) == 0 and begun == [0, 1, 2]
    assert list(found) == list(range(1, 12))


def test_what_a_task_raises_comes_back(pool):
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result()
    with pytest.raises(InputError, match=r"found 1; expected 2\. Fix: 3") as caught:
        pool.submit(exec, "from hpa_tf.errors import InputError; raise InputError('a', '1', '2', '3')").result()
    assert caught.value.fix == "3"
    with pytest.raises(RuntimeError, match=r"[Pp]ickle"):  # an answer that cannot be sent
        pool.submit(eval, "lambda: 0").result()
    assert pool.submit(abs, -1).result() == 1


@pytest.mark.parametrize(("death", "how"), [((os._exit, 3), "exit code 3"), ((os.abort,), "killed by SIGABRT")])
def test_a_task_that_kills_its_worker_fails_alone_and_by_its_name(pool, death, how):
    futures = [pool.submit(abs, -i) for i in range(6)]
    dying = pool.submit(*death, name="image x")
    futures += [pool.submit(abs, -i) for i in range(6, 12)]
    with pytest.raises(WorkerDied, match=f"image x: found its worker died: {how}"):
        dying.result()
    assert [future.result() for future in futures] == list(range(12))
    assert len({pool.submit(os.getpid).result() for _ in range(20)}) <= 2


def test_a_worker_that_is_killed_from_outside_says_that_memory_may_be_short():
    with Pool(1) as workers:
        pid = workers.submit(os.getpid).result()
        sleeping = workers.submit(time.sleep, 600, name="image y")
        while not sleeping.running():
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match=r"image y: .*killed by SIGKILL \(out of memory\?\)"):
            sleeping.result(timeout=60)
        assert list(workers.map(os._exit, [1], 1, lambda task, error: (task, error.where))) == [(1, "worker process")]
        assert workers.submit(abs, -2).result() == 2


def test_what_a_task_says_on_its_way_is_heard_in_order(pool):
    heard = []
    says = operator.methodcaller("__call__", "image", 7)
    pool.submit(says, heard=lambda *news: heard.append(news)).result()
    assert heard == [("image", 7)]


def test_an_error_ends_the_workers_at_once_and_cancels_what_waits():
    start = time.monotonic()
    with pytest.raises(KeyError), Pool(1) as workers:
        pid = workers.submit(os.getpid).result()
        futures = [workers.submit(time.sleep, 600) for _ in range(3)]
        while not futures[0].running():
            time.sleep(0.01)
        raise KeyError
    assert time.monotonic() - start < 120 and not psutil.pid_exists(pid)
    assert futures[1].cancelled() and futures[2].cancelled()


def test_without_an_error_the_block_waits_for_what_runs():
    with Pool(1) as workers:
        future = workers.submit(time.sleep, 0.5)
        while not future.running():
            time.sleep(0.01)
    assert future.done() and not future.cancelled() and future.exception() is None
