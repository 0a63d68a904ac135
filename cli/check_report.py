"""What `hiprobe check` shows, in the order in which a user asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hiprobe.cli.output import duration, say, size, terminal
from hiprobe.store.errors import listing

if TYPE_CHECKING:
    from hiprobe.extract.check_report import CheckReport

STYLES = {"passed": "green", "FAILED": "red", "skipped": "yellow"}
HEADERS = {
    "one_at_a_time": "batch, alone",
    "generate": "ours, generate",
    "float32": "half, float32",
}
MOST_KERNELS = 4
MOST_SIZES = 8


def print_report(report: CheckReport) -> None:
    """Print all of it."""
    _print_machine(report)
    for one in report.inputs:
        say(
            f"\n{one['name']} ({one['width']}×{one['height']}, {one['fps']:.3g} fps): "
            f"{one['tokens_per_segment']:,} tokens a segment. The model reads:"
        )
        say(one["text"].rstrip("\n"), style="dim")
    if report.description:
        say(f"\nOf the first segment it says: {report.description}")
    say("")
    for finding in report.findings:
        say(f"{finding.status}: {finding.name}: {finding.text}", style=STYLES[finding.status])
    _print_layers(report)
    _print_speed(report)
    _print_kernels(report)
    _print_projection(report.projection)


def _print_machine(report: CheckReport) -> None:
    found = report.machine
    parts = [f"{found['name']} ({found['device']})"]
    if "gpu_bytes" in found:
        parts.append(f"{found['gpu_bytes'] / 2**30:.1f} GiB, {found['uuid']}")
        parts.append(f"driver {found['driver']}, CUDA {found['cuda']}")
        parts.append(f"capability {found['compute_capability']}")
    else:
        parts.append(f"{found['threads']} threads, {found['memory_bytes'] / 2**30:.1f} GiB")
    libraries = ", ".join(f"{name} {version}" for name, version in found["libraries"].items())
    say(f"{'; '.join(parts)}; {libraries}")
    model = report.model["model"]
    count = report.model.get("num_parameters")
    parameters = "" if count is None else f"{count / 1e6:,.1f} M parameters, "
    say(
        f"{model['class']}, {parameters}{model['dtype']}, attention {model['attention']}, "
        f"{model['load_in']} weights"
    )


def _print_layers(report: CheckReport) -> None:
    """Print the relative L2 of each comparison by layer, beside the control."""
    from rich.table import Table

    if not report.agreement:
        return
    names = list(report.agreement)
    title = "how far states are apart, by layer (relative L2, the worst segment)"
    headers = [HEADERS[name] for name in names]
    table = Table("layer", *headers, "different segments", title=title)
    control = report.agreement[names[0]]
    for layer in control.relative_l2:
        figures = [report.agreement[name].relative_l2.get(layer) for name in names]
        between = control.between_segments.get(layer)
        table.add_row(layer, *map(_figure, [*figures, between]))
    terminal().print(table)


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1e}" if value else "0"


def _print_speed(report: CheckReport) -> None:
    from rich.table import Table

    if not report.batches:
        return
    table = Table(
        *("size", "tokens", "batch", "s a segment", "preparing it", "memory", "busy"),
        title="speed: the model alone, and one thread that prepares for it",
    )
    for row in report.batches:
        seen = [f"{row['width']}×{row['height']}", f"{row['tokens_per_segment']:,}"]
        seen.append(str(row["batch_size"]))
        if not row["fits"]:
            table.add_row(*seen, "does not fit")
            continue
        table.add_row(
            *seen,
            f"{row['seconds_per_segment']:.4f}",
            f"{row['prepare_seconds_per_segment']:.4f}",
            f"{row['peak_bytes'] / 2**30:.2f} GiB",
            f"{row['utilisation']:.0%}",
        )
    terminal().print(table)


def _print_kernels(report: CheckReport) -> None:
    if not report.kernels:
        return
    attention = ", ".join(report.kernels["attention"]) or "no kernel of that name"
    say(f"attention runs by: {attention}")
    top = report.kernels["top"][:MOST_KERNELS]
    named = "; ".join(f"{name[:60]} {share:.0%}" for name, share in top)
    say(f"{report.kernels['num_calls']:,} kernel calls a pass, most time in {named}")


def _print_projection(plan: dict[str, Any]) -> None:
    if not plan:
        return
    if plan["is_of_manifest"]:
        _print_sizes(plan["sizes"])
        if unreadable := plan["unreadable"]:
            say(f"not counted, for they cannot be opened:\n{listing(unreadable)}", style="yellow")
        whose = f"of the manifest's {plan['num_videos']:,} videos"
    else:
        whose = "(an example; --manifest M.csv counts yours)"
    time = duration(3600 * plan["hours"])
    say(
        f"{plan['num_segments']:,} segments {whose}: {time} of the model on this device, at most "
        f"{size(plan['max_bytes'])} of states"
    )
    if plan["readers"] is not None:
        say(f"decoding and preparing keep up with the model with --readers {plan['readers']}")


def _print_sizes(sizes: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("size", "videos", "segments", "tokens", "s a segment", title="the manifest")
    for one in sizes[:MOST_SIZES]:
        table.add_row(
            f"{one['width']}×{one['height']}",
            f"{one['num_videos']:,}",
            f"{one['num_segments']:,}",
            f"{one['tokens_per_segment']:,}",
            f"{one['seconds_per_segment']:.4f}",
        )
    if rest := sizes[MOST_SIZES:]:
        num_videos = sum(one["num_videos"] for one in rest)
        num_segments = sum(one["num_segments"] for one in rest)
        table.add_row(f"{len(rest)} more", f"{num_videos:,}", f"{num_segments:,}")
    terminal().print(table)
