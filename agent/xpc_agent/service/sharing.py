"""One fixed address for several processes, in the one that hosts it: its sessions' hooks are every process's.

Rules:
- Another process of the application joins as a member (`member.py`) and is told of every hook. It is one if the runtime directory, where
  only the application's user can write, says so: a script holds the same key.
- A script gets its answer when all members have theirs; it has its hook if at least one process has the target.
- What a member calls by the name that `relay_name` gives is passed on to the script, and what it tells a script as well.
- In the service thread, but for `answered`, which the sender of events calls too, and `find`, which the threads of lanes do. There is no
  lock: each step is one operation on one dict.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Dict, List, Mapping, Optional, Set, Tuple

from xpc_instrument.core.calls.registry import Registration
from xpc_instrument.core.discovery.entry import is_announced
from xpc_instrument.core.discovery.folder import VARIABLE
from xpc_instrument.core.node.peer import Peer
from xpc_instrument.core.protocol.messages import Answer, Notice, Opcode, Register
from xpc_instrument.core.wire.wire import Wire

from ..relay import is_member

log = logging.getLogger("xpc_agent")


class PendingAnswer:
    """The answer to a script, which waits for some of the processes that share the address. `members` are their sessions.

    Who still waits for the module of a target says nothing of whether there is such a target: if all others refuse it, it is refused.
    """

    __slots__ = ("accepted", "answer", "key", "members", "peer", "refusal")

    def __init__(self, peer: Peer, answer: Answer, members: Set[str]) -> None:
        self.peer = peer
        self.answer = answer
        self.members = members
        self.key = ""
        # What one has said that has the hook, rather one that does not wait; and the first that refuses it.
        self.accepted: Optional[Answer] = None
        self.refusal: Optional[Answer] = None
        self.add(answer)

    def add(self, answer: Answer) -> None:
        """What one process says of the hook."""
        if not answer.ok:
            self.refusal = self.refusal or answer
        elif self.accepted is None or self.accepted.data.get("waits"):
            self.accepted = answer

    def over_all(self) -> Answer:
        """What all of them say."""
        if self.accepted is None or (self.accepted.data.get("waits") and self.refusal is not None):
            return self.refusal or self.answer
        return self.accepted


class _RelayedHook(Registration):
    """A script's hook, as a member calls it. That the script died is a failure there; that it has removed the hook is none."""

    __slots__ = ()

    def lost(self, caller: Wire) -> None:
        caller.send_frame(Opcode.FAILED, 0, json.dumps({"cause": "channel", "message": "the script is gone"}).encode(), None)


class Sharing:
    """The members of this process's address. `peers` are all sessions that have joined, `possible` says whether a member can."""

    def __init__(self, app: str, peers: Mapping[str, Peer], possible: bool) -> None:
        self._app = app
        self._peers = peers
        self._possible = possible
        # Sessions.
        self._members: Set[str] = set()
        # Hooks by session and number, for members that come later.
        self._hooks: Dict[Tuple[str, int], Register] = {}
        self._pending: Dict[str, PendingAnswer] = {}

    # members -----------------------------------------------------------------------------------------------------------

    def members(self) -> List[Peer]:
        """Those that are joined now."""
        return [one for one in self._peers.values() if self._is_member(one)]

    def _is_member(self, peer: Peer) -> bool:
        return peer.session in self._members

    def joined(self, peer: Peer) -> bool:
        """A session has joined; False if it is a script's."""
        if not self._possible or not is_member(peer.session):
            return False
        self._let_in(peer)
        return True

    def _let_in(self, peer: Peer) -> None:
        """Take a session that says it is a member for one if it is announced as one, and tell it of all hooks."""
        if not is_announced(self._app, peer.pid, peer.session):
            why = f"{peer.who} is not announced in the runtime directory of pid {os.getpid()}, which hosts the address"
            log.warning("a session that would be a process of %s is refused as one: %s", self._app, why)
            peer.notify("no-member", message=f"{why}: processes that share an address need the same user, {VARIABLE} and pid namespace")
            return
        peer.trust()
        self._members.add(peer.session)
        for (session, _), message in self._hooks.copy().items():
            owner = self._peers.get(session)
            if owner is not None:
                self._tell_member(peer, owner, message)
        peer.notify("all-hooks")

    def left(self, peer: Peer) -> None:
        """A session has ended: a member's, for which nobody waits any more, or a script's, whose hooks the members remove."""
        if self._is_member(peer):
            self._members.discard(peer.session)
            for script in list(self._peers.values()):
                if not self._is_member(script):
                    script.notify("member-left", pid=peer.pid)
        for session, number in [key for key in self._hooks if key[0] == peer.session]:
            self.unshare(session, number)
        for pending in list(self._pending.values()):
            if pending.peer is peer:
                self._pending.pop(pending.key, None)
            elif peer.session in pending.members:
                self.answered(pending, peer.session)

    def ask(self, question: str, script: Peer, request: int) -> bool:
        """Have a member report to a script, in a notice; False if there is none of that pid.

        The question is the pid, and behind it `stacks` if that is what is wanted.
        """
        pid, _, what = question.partition(" ")
        asked = next((one for one in self.members() if str(one.pid) == pid), None)
        if asked is not None:
            asked.notify("report", session=script.session, request=request, what=what)
        return asked is not None

    # hooks -------------------------------------------------------------------------------------------------------------

    def share(self, peer: Peer, message: Register, answer: Answer) -> Optional[Answer]:
        """Tell all members of a hook; the answer to its script, or None if it follows when they have answered."""
        self._hooks[peer.session, message.hook] = message
        members = self.members()
        if not members:
            return answer
        self.wait(f"{peer.session} {message.hook}", PendingAnswer(peer, answer, {member.session for member in members}))
        for member in members:
            self._tell_member(member, peer, message)
        return None

    def unshare(self, session: str, hook: int, within: float = 0.0) -> Optional[Set[str]]:
        """Tell all members that a hook is removed; each answers if given time. Returns their sessions; None if it was not shared."""
        if self._hooks.pop((session, hook), None) is None:
            return None
        members = self.members()
        for member in members:
            member.notify("hook-removed", session=session, hook=hook, within=within)
        return {member.session for member in members}

    @staticmethod
    def _tell_member(member: Peer, peer: Peer, message: Register) -> None:
        member.notify(
            "hook-added",
            key=f"{peer.session} {message.hook}",
            session=peer.session,
            who=peer.who,
            pid=peer.pid,
            python=peer.python,
            name=message.name,
            hook=message.hook,
            style=message.style,
            terms=dict(message.terms),
        )

    def wait(self, key: str, pending: PendingAnswer) -> None:
        """Hold an answer back; `key` is what members answer to."""
        pending.key = key
        self._pending[key] = pending

    def answered(self, pending: PendingAnswer, member: str) -> None:
        """A member has answered, or is gone; after the last one the script gets its answer."""
        pending.members.discard(member)
        if pending.members:
            return
        if self._pending.pop(pending.key, None) is None:
            return  # the sender of events and the service thread were at the last two at once
        pending.peer.post(pending.over_all())

    # what members say --------------------------------------------------------------------------------------------------

    def noticed(self, peer: Peer, notice: Notice) -> None:
        """A session said something; what a member says counts here."""
        if not self._is_member(peer):
            return
        if notice.kind == "hook-answer":
            pending = self._pending.get(str(notice.data.get("key")))
            if pending is not None:
                request, told = pending.answer.request, notice.data
                if told.get("error"):
                    pending.add(Answer(request, False, str(told["error"]), str(told.get("message"))))
                else:
                    said = {"timeout": told.get("timeout"), "waits": told.get("waits")}
                    pending.add(Answer(request, True, data={"registered": True, "importable": True, **said}))
                self.answered(pending, peer.session)
        elif notice.kind == "to-script":
            # What a member has to tell the script of its hooks.
            script = self._peers.get(str(notice.data.get("session")))
            data = notice.data.get("data")
            if script is not None and isinstance(data, dict):
                script.post(Notice(str(notice.data.get("notice")), data))

    def find(self, name: str) -> Optional[Registration]:
        """The hook that a member calls by such a name."""
        _, session, number = [*name.split("\0"), "", ""][:3]
        peer = self._peers.get(session)
        # A member says what it was told; anybody else may say anything.
        if peer is None or not self._possible or not (number.isascii() and number.isdigit()) or len(number) > 9:
            return None
        return _RelayedHook(None, peer, int(number))
