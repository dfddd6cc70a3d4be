"""Somebody with a browser: keeps cookies, follows redirects, sends the forms that pages have."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode

from rig.asgi import Answer
from rig.control import ControlledEdge
from underpass.edge.store import Account

HOST = "127.0.0.1:8081"
FORM = "application/x-www-form-urlencoded"


@dataclass
class Form:
    """A form of a page. `fields` has what is filled in already."""

    action: str
    fields: list[tuple[str, str]] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if tag == "form":
            self.forms.append(Form(given.get("action") or ""))
        elif tag == "input" and self.forms and given.get("name"):
            is_sent = given.get("type") != "checkbox" or "checked" in given
            if is_sent:
                self.forms[-1].fields.append((given["name"] or "", given.get("value") or ""))


@dataclass
class Person:
    """`await person("/dashboard")` is a page, `await person.send(page, action, …)` a form sent."""

    edge: ControlledEdge
    cookies: dict[str, str] = field(default_factory=dict)
    source: str = "192.0.2.1"

    async def __call__(self, target: str, **more: Any) -> Answer:
        """A page, redirects followed."""
        answer = await self.ask("GET", target, **more)
        for _ in range(3):
            if answer.status != 303:
                break
            answer = await self.ask("GET", answer.headers["location"])
        return answer

    async def ask(
        self,
        method: str,
        target: str,
        fields: Any = None,
        *,
        headers: dict[str, str] | None = None,
        kind: str = FORM,
    ) -> Answer:
        """One request, as a browser sends it."""
        given = {"host": HOST}
        if self.cookies:
            given["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        body: Any = b""
        if method == "POST":
            given |= {"content-type": kind, "origin": f"http://{HOST}"}
            body = fields if isinstance(fields, bytes) else urlencode(fields or []).encode()
        given |= headers or {}
        answer = await self.edge.ask(
            method,
            target,
            body,
            headers=[(name, value) for name, value in given.items() if value],
            source=self.source,
        )
        if "set-cookie" in answer.headers:
            for name, morsel in SimpleCookie(answer.headers["set-cookie"]).items():
                if morsel["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value
        return answer

    async def send(self, page: Answer, action: str, *more: tuple[str, str]) -> Answer:
        """Fill in the form of a page that leads to `action`, and send it."""
        form = next(form for form in forms_of(page) if form.action == action)
        names = {name for name, _ in more}
        kept = [(name, value) for name, value in form.fields if name not in names]
        return await self.ask("POST", action, [*kept, *more])

    async def sign_in(self, token: str, **more: str) -> Answer:
        """With a token."""
        page = await self("/dashboard/sign-in")
        return await self.send(page, "/dashboard/sign-in", ("token", token), *more.items())

    async def come_by_link(self, account: Account) -> Answer:
        """With a link that a command has made."""
        from underpass.edge.dashboard.sessions import SignInLinks

        secret = SignInLinks(self.edge.parts.sign_in_links).make(account)
        page = await self(f"/dashboard/sign-in?link={secret}")
        assert account.name in text_of(page)
        return await self.send(page, "/dashboard/sign-in")


def forms_of(page: Answer) -> list[Form]:
    """The forms of a page."""
    reader = _Reader()
    reader.feed(page.body.decode())
    return reader.forms


def tags_of(page: Answer) -> list[str]:
    """The elements of a page, in their order."""
    reader = _Reader()
    reader.feed(page.body.decode())
    return reader.tags


def text_of(page: Answer) -> str:
    """What can be read on it."""
    text = re.sub(r"<[^>]*>", " ", page.body.decode())
    return re.sub(r"\s+", " ", unescape(text))
