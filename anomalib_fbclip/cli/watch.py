# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""An inspection that runs until it is stopped: ``fbclip watch``."""

import argparse
import json
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path

from anomalib_fbclip.errors import FAILED, CommandError
from anomalib_fbclip.images.image_files import find_images, printable
from anomalib_fbclip.line.arrivals import Arrival, Camera, Folder, has_changed
from anomalib_fbclip.line.delivery import Delivery, Message, Mqtt, Outbox, Webhook
from anomalib_fbclip.results.files import find_missing, remove_incomplete, removing_on_error
from anomalib_fbclip.results.records import Record, RecordWriter
from anomalib_fbclip.results.thresholds import describe_guess

from .arguments import AUTO, EXIT_CODES, Parser, add_inspection_options, as_type, parse_arguments, parse_count, writing
from .inspection import Inspection, noting
from .models import Ready, find_good, get_ready
from .screen import Screen, count, count_verdicts, logging_to
from .sources import PICTURES, Inputs, Item, Live, find_live, fit_name, name_file

SHORT_ID = 8
"""Number of letters of a photograph's id in the name of its picture: the next photograph may have the same name."""


def create_parser() -> Parser:
    """Create the parser of the arguments after ``fbclip watch``."""
    parser = Parser(
        prog="fbclip watch",
        description="Inspect photographs as they arrive in a folder or from a camera, until Ctrl-C or SIGTERM. To "
        "continue later, start it again with the same --output.",
        epilog=f"Example: fbclip watch incoming --good good --output results\n\n{EXIT_CODES}",
    )
    parser.add_argument("source", help="a folder, the address of a stream (rtsp://...), or a camera number")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("fbclip-watch"),
        metavar="FOLDER",
        help="folder of the results; each start adds to it (default: fbclip-watch)",
    )
    parser.add_argument("--pictures", action="store_true", help="draw a picture of each photograph, with its heatmap")
    parser.add_argument(
        "--webhook", type=as_type(Webhook), metavar="URL", help="address to which each verdict is posted"
    )
    parser.add_argument(
        "--mqtt",
        type=as_type(Mqtt),
        metavar="URL",
        help="topic to which each verdict is published: mqtt://host/topic, or mqtts:// for TLS",
    )
    parser.add_argument(
        "--every", type=parse_count, metavar="N", help="inspect every Nth frame of a camera or stream (default: 1)"
    )
    parser.add_argument(
        "--trigger",
        choices=["change"],
        help="inspect only frames of a camera or stream that differ from the last inspected one",
    )
    add_inspection_options(parser)
    parser.set_defaults(alone=False)
    return parser


def run_watch(arguments: Sequence[str]) -> int:
    """Run ``fbclip watch``. The exit code is that of the worst photograph; 2 if a folder can't be read at the end."""
    parser = create_parser()
    options = parse_arguments(parser, arguments)
    options.alone = True  # those that are there first are not references of each other
    live = find_live(options.source)
    for name in ("every", "trigger"):
        if getattr(options, name) and live is None:
            parser.error(f"--{name} is for cameras and streams: leave it out")
    if live is None and not Path(options.source).is_dir():
        msg = (
            f"{printable(options.source)} is not a folder: give a folder, the address of a stream, or a camera number."
        )
        raise CommandError(msg)
    with writing(options.output, "folder"):
        return watch(options, live)


def watch(options: argparse.Namespace, live: Live | None) -> int:
    """Open the results, the source and the model, and inspect until the command is stopped."""
    screen = Screen(as_json=options.json)
    folder: Path = options.output
    good = find_good(options.good, options.shots) if options.good else []
    missing = find_missing(folder)
    with Outbox(folder) as outbox, logging_to(folder, verbose=options.verbose):
        with removing_on_error(missing):
            arrivals = open_arrivals(options, live, outbox, screen)
            measured = find_images(Path(options.source), folder) if live is None and options.tiles == AUTO else []
            ready = get_ready(options, good, measured, screen, at_once=live is None)
        return run(ready, arrivals, outbox, options, screen)


def open_arrivals(options: argparse.Namespace, live: Live | None, outbox: Outbox, screen: Screen) -> Folder | Camera:
    """Open the camera or stream, or the folder."""
    if live is not None:
        return Camera(
            live.name, live.open, screen.tell, every=options.every or 1, on_change=options.trigger == "change"
        )
    pictures: Path = options.output / PICTURES
    return Folder(
        Path(options.source), [pictures, *([options.good] if options.good else [])], outbox.knows, screen.tell
    )


def run(ready: Ready, arrivals: Folder | Camera, outbox: Outbox, options: argparse.Namespace, screen: Screen) -> int:
    """Inspect the arrivals, write and send the results, and return the exit code."""
    folder: Path = options.output
    delivery = Delivery(outbox, [target for target in (options.webhook, options.mqtt) if target], screen.tell)
    inspection = Inspection(ready.inferencer, folder, {}, full_size=options.full_size, pictures=options.pictures)
    remove_incomplete(folder / PICTURES)  # pictures of a process that was killed
    guess = describe_guess(ready.inferencer.threshold_sources()[0], ready.advice)
    screen.tell(*ready.lines, *guess, *describe_waiting(outbox, delivery.names))
    screen.tell(f"Watching {arrivals.name}. Results are in {printable(folder)}. Stop with Ctrl-C.")
    stops = noting(signal.SIGINT, signal.SIGTERM)
    with RecordWriter(folder, tail=outbox.tail()) as table, stops as stopped, delivery:
        for batch in arrivals.batches(lambda: bool(stopped)):
            taken: deque[Arrival] = deque()
            inputs = Inputs([_to_items(batch, Path(options.source), taken)], [])
            with closing(inspection.inspect(inputs)) as entries:
                for record, *_ in entries:
                    arrival = taken.popleft()
                    if record.error is not None and has_changed(arrival):
                        inspection.drop()  # it was read before it was complete
                    else:
                        tail = table.next_tail(record)
                        outbox.add(to_message(arrival.id, record), delivery.names, tail)
                        table.append(tail.rows)
                        inspection.note(record)
                        screen.show(record)
                        delivery.wake()
                    arrivals.release(arrival)
    screen.tell(count_verdicts(inspection.counts), *describe_waiting(outbox, delivery.names))
    return FAILED if arrivals.is_unread else inspection.exit_code


def to_message(identity: str, record: Record) -> Message:
    """Make a row's message: the row with the photograph's id and the time of its verdict."""
    known = {"id": identity, "time": datetime.now().astimezone().isoformat(timespec="milliseconds")}
    return Message(identity, json.dumps(known | json.loads(record.to_json())))


def describe_waiting(outbox: Outbox, targets: Sequence[str]) -> list[str]:
    """Say how many verdicts are not sent yet."""
    return [
        f"Not sent yet: {count(number, 'verdict')} for {target}."
        + ("" if target in targets else " Give this address again to send them.")
        for target, number in outbox.waiting().items()
    ]


def _to_items(batch: Iterator[Arrival], root: Path, taken: deque[Arrival]) -> Iterator[Item]:
    """Turn arrivals into items, and append the arrivals to ``taken`` for their rows, which come in the same order."""
    for arrival in batch:
        taken.append(arrival)
        if isinstance(arrival.source, Path):
            relative = arrival.source.relative_to(root)
            picture = relative.with_name(fit_name(f"{relative.name}.{arrival.id[:SHORT_ID]}", ".jpg"))
        else:
            picture = Path(name_file(arrival.name, ".jpg"))
        yield Item(arrival.name, arrival.source, picture)
