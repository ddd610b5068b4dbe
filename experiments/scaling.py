"""What a training step from a sparse start takes of memory and communication, on paper.

    python -m experiments.scaling

For catalogues and numbers of devices that nobody has to own: a markdown table of docs/scaling.md.
The times are those of the peaks of a device's data sheet (an H100 SXM by default), with nothing
kept in a cache and no overlap; give what was measured instead, where it was.
"""

from __future__ import annotations

from absl import flags

from experiments import cli

_ITEMS = flags.DEFINE_multi_integer("n_items", [10**5, 10**6, 10**7], "Items.", lower_bound=1)
_DEVICES = flags.DEFINE_multi_integer(
    "devices", [1, 8, 64], "Devices, all along the item axis.", lower_bound=1
)
_NNZ = flags.DEFINE_integer("nnz", 64, "Factors an item, k, of as many as items.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 512, "Users in a step.", lower_bound=1)
_HISTORY = flags.DEFINE_integer("history", 50, "Interactions a user.", lower_bound=1)
_USERS = flags.DEFINE_integer("n_users", 1_000_000, "Users on the device.", lower_bound=1)
_NEGATIVES = flags.DEFINE_integer(
    "n_negatives", 20_000, "For the rows of sampled outputs.", lower_bound=1
)
_MEMORY = flags.DEFINE_float("memory_gb_per_s", 3350, "Of a device's own memory.")
_LINK = flags.DEFINE_float("link_gb_per_s", 450, "Between devices, one way.")
_UPDATE_BYTES = 28  # that Nadam reads and writes for a weight: W, two moments, gradient


def main() -> None:
    from celsa_jax.memory import training_bytes
    from celsa_jax.sampling import n_columns

    print(
        "| items | devices | scored a device | memory a device | gathered a device | sent a device "
        "| time of gathers | of the update | of sending |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    k, n_users, n_own = _NNZ.value, _BATCH.value, _BATCH.value * _HISTORY.value
    for n_items in _ITEMS.value:
        for n in _DEVICES.value:
            here = -(-n_items // n)
            for columns in sorted({here, n_columns(here, n_own, -(-_NEGATIVES.value // n))})[::-1]:
                held = training_bytes(
                    here,
                    n_items,
                    k,
                    n_users,
                    columns,
                    _USERS.value,
                    _USERS.value * _HISTORY.value,
                )
                # Three products add up the latent vectors or scores of the places of each item.
                gathered = 3 * 4 * n_users * columns * k
                # All-reduces of the latent vectors and of their gradient; when sampled, of the
                # factors that the batch's own items have.
                factors = n_items if columns == here else min(n_items, n_own * k)
                sent = 2 * (n - 1) / n * 2 * 4 * factors * n_users
                update = _UPDATE_BYTES * columns * k
                print(
                    f"| {n_items:,} | {n} | {columns:,} | {held / 1e9:,.1f} GB "
                    f"| {gathered / 1e9:,.1f} GB | {sent / 1e9:,.2f} GB "
                    f"| {gathered / _MEMORY.value / 1e6:,.2f} ms "
                    f"| {update / _MEMORY.value / 1e6:,.2f} ms "
                    f"| {sent / _LINK.value / 1e6:,.2f} ms |"
                )


if __name__ == "__main__":
    cli.run(main)
