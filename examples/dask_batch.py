"""Many prompts on many machines: a batch in each task of a Dask cluster.

A client is pickled as its configuration, so each task opens its own session and connections.
Without an address, it starts a cluster on this machine. From a clone: `pip install '.[dask]'`, then

    H2O_CHAT_URL=http://127.0.0.1:8000 python examples/dask_batch.py [tcp://scheduler:8786]
"""

import sys

from dask.distributed import Client, as_completed

from h2o_client import BatchResult, H2oClient

PROMPTS = [f"What is {number} times {number}?" for number in range(1, 25)]
SIZE = 6  # prompts per task: if a machine is lost, its tasks are sent again


def ask(client: H2oClient, prompts: list[str]) -> list[BatchResult]:
    """Send some of the prompts from one of the machines."""
    with client, client.batch(prompts, concurrency=4) as results:
        return list(results)


def main(address: str | None) -> None:
    """Send all prompts, and print the answers as they arrive."""
    parts = [PROMPTS[start : start + SIZE] for start in range(0, len(PROMPTS), SIZE)]
    with Client(address) as cluster:
        tasks = cluster.map(ask, [H2oClient()] * len(parts), parts, pure=False)
        for task in as_completed(tasks):
            for result in task.result():
                print(f"Q: {result.prompt}\nA: {result.error or result.reply}\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
