"""A message as Flower's content-addressed objects: taken only if they are the honest sender's.

What the objects say is read by Flower's own classes, written anew, and must come out as the same
bytes. So nothing rides along: no object that nobody names, chunk of another size, unknown field of
protobuf, JSON key that stands twice, or white space.
"""

import hashlib
from collections.abc import Mapping

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from clients.gate.facts import RefusedError
from common.wire.gate import REFUSED_CONTENT


def message_from_objects(root: str, objects: Mapping[str, bytes]) -> Message:
    """The message in a set of objects.

    Args:
        root: Id of the message's own object.
        objects: All of them, by id (SHA-256, hex).

    Raises:
        RefusedError: If they are not exactly what Flower writes for the message that they hold.
    """
    for name, content in objects.items():
        if hashlib.sha256(content).hexdigest() != name:
            raise RefusedError(REFUSED_CONTENT, "an object is not what its id says")
    try:
        message = inflate_object_from_contents(root, dict(objects))
        if not isinstance(message, Message):
            raise RefusedError(REFUSED_CONTENT, "the objects hold no message")
        again = objects_of(message)
    except RefusedError:
        raise
    except Exception as error:
        # Whatever a crafted object makes Flower raise: it is refused, and its words stay here.
        words = f"the objects are not readable ({type(error).__name__})"
        raise RefusedError(REFUSED_CONTENT, words) from None
    if set(again) != set(objects):
        extra = len(set(objects) - set(again))
        raise RefusedError(REFUSED_CONTENT, f"{extra} object(s) are not written as Flower does")
    return message


def objects_of(message: Message) -> dict[str, bytes]:
    """All objects of a message, children first, as they are sent."""
    return {name: found.deflate() for name, found in get_all_nested_objects(message).items()}
