"""What a training step takes of memory, arithmetic and communication, on paper.

    python -m experiments.scaling

For catalogues and numbers of devices that nobody has to own: a markdown table of docs/scaling.md.
The times are lower bounds, at the peaks of a device's data sheet (an H100 SXM by default) and
without overlap; give what was measured instead, where it was.
"""

from __future__ import annotations

from absl import flags

from experiments import cli

_ITEMS = flags.DEFINE_multi_integer("n_items", [10**5, 10**6, 10**7], "Items.", lower_bound=1)
_DEVICES = flags.DEFINE_multi_integer(
    "devices", [1, 8, 64], "Devices, all along the item axis.", lower_bound=1
)
_FACTORS = flags.DEFINE_integer("n_factors", 1024, "Width d.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 1024, "Users in a step.", lower_bound=1)
_HISTORY = flags.DEFINE_integer("history", 50, "Interactions a user.", lower_bound=1)
_USERS = flags.DEFINE_integer("n_users", 1_000_000, "Users on the device.", lower_bound=1)
_NEGATIVES = flags.DEFINE_integer(
    "n_negatives", 20_000, "For the rows of sampled outputs.", lower_bound=1
)
_TFLOPS = flags.DEFINE_float("tflops", 989, "Peak of products, 10^12 FLOP/s.")
_MEMORY = flags.DEFINE_float("memory_gb_per_s", 3350, "Of a device's own memory.")
_LINK = flags.DEFINE_float("link_gb_per_s", 450, "Between devices, one way.")
_UPDATE_BYTES = 36  # that Nadam reads and writes for a weight: W, two moments, gradient, mask


def main() -> None:
    from celsa_jax.memory import training_bytes
    from celsa_jax.sampling import n_columns

    print(
        "| items | scored a step | devices | memory a device | FLOP a device | sent a device "
        "| time of products | of the update | of sending |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    d, n_users = _FACTORS.value, _BATCH.value
    for n_items in _ITEMS.value:
        sampled = n_columns(n_items, n_users * _HISTORY.value, _NEGATIVES.value)
        for columns in sorted({n_items, sampled}, reverse=True):
            for n in _DEVICES.value:
                held = training_bytes(
                    n_items,
                    d,
                    n_users,
                    _USERS.value,
                    _USERS.value * _HISTORY.value,
                    columns if columns < n_items else 0,
                    (1, n),
                )
                flop = 6 * n_users * columns * d / n
                # All-reduces of the latent vectors and of their gradient; of rows, when sampled.
                sent = 2 * (n - 1) / n * 4 * d * 2 * n_users
                if columns < n_items:
                    sent += 2 * (n - 1) / n * 4 * d * 2 * columns
                update = _UPDATE_BYTES * n_items * d / n / _MEMORY.value / 1e9
                print(
                    f"| {n_items:,} | {columns:,} | {n} | {held / 1e9:,.1f} GB "
                    f"| {flop / 1e12:,.2f} TFLOP | {sent / 1e6:,.0f} MB "
                    f"| {1e3 * flop / _TFLOPS.value / 1e12:,.2f} ms | {1e3 * update:,.2f} ms "
                    f"| {1e3 * sent / _LINK.value / 1e9:,.2f} ms |"
                )


if __name__ == "__main__":
    cli.run(main)
