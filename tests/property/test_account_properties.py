"""Whatever a file, an API or a name may hold."""

from __future__ import annotations

import base64
import contextlib
import json
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import yaml
from hypothesis import given
from hypothesis import strategies as st

from underpass.account.certificate import OriginCertificate
from underpass.account.errors import CertificateError
from underpass.account.models import IpRoute, Tunnel, convert
from underpass.account.moment import Moment
from underpass.cli.documents import to_json, to_yaml
from underpass.wire.secret import Secret

visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(texts, texts, visible, st.sampled_from(["", "fed"]))
def test_a_certificate_is_read_as_it_was_written(
    zone: str, account: str, token: str, endpoint: str
) -> None:
    certificate = OriginCertificate(zone, account, Secret(token.encode()), endpoint)
    assert OriginCertificate.from_pem(certificate.to_pem()) == certificate


@given(st.binary() | st.text().map(str.encode))
def test_any_file_is_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(CertificateError):
        OriginCertificate.from_pem(content)


@given(anything)
def test_any_payload_of_a_certificate_is_read_or_refused(value: Any) -> None:
    payload = base64.b64encode(json.dumps(value).encode()).decode()
    text = f"-----BEGIN ARGO TUNNEL TOKEN-----\n{payload}\n-----END ARGO TUNNEL TOKEN-----\n"
    with contextlib.suppress(CertificateError):
        OriginCertificate.from_pem(text.encode())


@given(anything | st.fixed_dictionaries({"id": anything, "created_at": anything, "name": anything}))
def test_any_answer_is_a_model_or_refused(value: Any) -> None:
    for kind in (Tunnel, IpRoute, list[Tunnel]):
        with contextlib.suppress(msgspec.ValidationError):
            convert(value, kind)


@given(st.text())
def test_any_text_is_a_time_or_none(text: str) -> None:
    try:
        moment = Moment.parse(text)
    except ValueError:
        return
    assert Moment.parse(moment) == moment


offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=offsets)


@given(moments, moments)
def test_times_have_the_order_that_they_have(one: datetime, two: datetime) -> None:
    orders = [Moment.parse(each.isoformat()).order for each in (one, two)]
    assert (orders[0] < orders[1]) == (one < two)


names = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.dictionaries(names, names | st.booleans() | st.lists(names))))
def test_documents_are_read_as_they_were_written(document: Any) -> None:
    assert json.loads(to_json(document)) == document


@given(st.lists(st.fixed_dictionaries({"name": names, "comment": names})))
def test_text_stays_text_in_yaml(document: Any) -> None:
    assert yaml.safe_load(to_yaml(document)) == document
