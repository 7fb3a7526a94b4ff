"""Name servers of tests."""

import asyncio
import socket
from collections.abc import Mapping, Sequence


class Names:
    """A resolver that knows these names (without trailing dot); `asked` is every lookup, in order.

    A name's answers are taken one by one, the last for ever: `{"h": [["192.0.2.1"], ["127.0.0.1"]]}` changes its mind.
    """

    def __init__(self, known: Mapping[str, Sequence[Sequence[str]]], *, delay_s: float = 0.0) -> None:
        self.known = {name: list(answers) for name, answers in known.items()}
        self.asked: list[str] = []
        self._delay_s = delay_s

    async def resolve(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        await asyncio.sleep(self._delay_s)
        answers = self.known.get(host.rstrip("."))
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]
