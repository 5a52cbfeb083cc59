"""What accelerators can do at most, by the name that jax gives them: the denominator of MFU."""

import re

# Dense bfloat16 FLOP/s of a chip; vendors also print twice that, for sparse matrices. TPU: "System architecture" of
# each version, cloud.google.com/tpu/docs. NVIDIA: data sheets of A100, H100, H200, B200, L4 and L40S.
BF16_FLOPS = {
    'v4': 275e12,
    'v5e': 197e12,
    'v5p': 459e12,
    'v6e': 918e12,
    'A100': 312e12,
    'H100': 989.4e12,
    'H100 PCIe': 756e12,
    'H100 NVL': 835.5e12,
    'H200': 989.4e12,
    'B200': 2250e12,
    'L4': 121e12,
    'L40S': 362e12,
}

# The first pattern that is found in `jax.Device.device_kind` tells the chip.
_KINDS = (
    (r'^TPU v4$', 'v4'),
    (r'^TPU v5 ?(lite|e)', 'v5e'),
    (r'^TPU v5p?$', 'v5p'),
    (r'^TPU v6 ?(lite|e)', 'v6e'),
    (r'\bA100\b', 'A100'),
    (r'\bH100 PCIe\b', 'H100 PCIe'),
    (r'\bH100 NVL\b', 'H100 NVL'),
    (r'\bH100\b', 'H100'),
    (r'\bH200\b', 'H200'),
    (r'\bB200\b', 'B200'),
    (r'\bL40S\b', 'L40S'),
    (r'\bL4\b', 'L4'),
)


def peak_flops(device_kind: str) -> float | None:
    """Returns the dense bfloat16 FLOP/s of a device, or None where the table has no such kind, e.g. a CPU.

    Args:
        device_kind: `jax.Device.device_kind`, e.g. 'TPU v5 lite' or 'NVIDIA H100 80GB HBM3'.
    """
    for pattern, chip in _KINDS:
        if re.search(pattern, device_kind):
            return BF16_FLOPS[chip]
    return None
