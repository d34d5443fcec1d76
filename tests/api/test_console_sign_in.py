"""Signing in to the console: with which key, and what a cookie or a form token is good for."""

import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy import func, select, update
from werkzeug.test import TestResponse

from app.access import ABSOLUTE_LIMIT, IDLE_LIMIT, LAST_SEEN_RESOLUTION, ConsoleSessions, Scope
from app.console.sign_in import COOKIE, HOST_COOKIE, cookie_secret, local_path
from app.db.access import ConsoleSession, SignInLink
from tests.support.api import Api, make_settings
from tests.support.console import BrowserClient, signed_in

PAGES = ["/", "/operations", "/audit", "/agents/7c1f5a52-3c0e-4c42-9a53-0f3a1d0b6c11"]


@pytest.mark.parametrize("path", PAGES)
def test_without_signing_in_every_page_leads_to_the_form_and_back(api: Api, path: str) -> None:
    browser = BrowserClient(api)

    response = browser.get(path)

    assert response.status_code == 303
    assert response.headers["Location"].startswith("/sign-in")
    form = browser.get(response.headers["Location"])
    wanted = re.search(r'name="next" value="([^"]*)"', form.text)
    assert wanted
    assert wanted[1] == path


@pytest.mark.parametrize("query", ["", "?x=1"])
@pytest.mark.parametrize("action", ["", "/provision", "/repair", "/verify"])
def test_a_form_sent_without_signing_in_shows_and_does_nothing(api: Api, action: str, query: str) -> None:
    path = f"/agents/{api.agent('hush')}{action}" if action else "/"

    response = BrowserClient(api).client.post(path + query, data={"name": "b", "typed": "+15145551234"})

    assert response.status_code in {400, 422}
    assert "hush" not in response.text
    assert (api.count("agents"), api.count("operations")) == (1 if action else 0, 0)


@pytest.mark.parametrize(
    ("sent_from", "leads_to"),
    [
        ("http://localhost/agents/{}/edit?x=1", "/agents/{}/edit?x=1"),
        ("http://localhost/agents/{}/plan", "/"),
        ("http://localhost//example.com", "/"),
        ("http://[", "/"),
        ("", "/"),
    ],
)
def test_a_form_sent_after_the_session_ended_says_so_and_leads_back(api: Api, sent_from: str, leads_to: str) -> None:
    browser, agent_id = signed_in(api, Scope.WRITE), api.agent("hush")
    form = {"csrf_token": browser.token(f"/agents/{agent_id}/edit"), "name": "changed"}
    api.revoke_key("write-person")

    response = browser.client.post(
        f"/agents/{agent_id}/edit", data=form, headers={"Referer": sent_from.format(agent_id)}
    )

    assert response.status_code == 303
    asked = browser.get(response.headers["Location"]).text
    assert "You were signed out before that: nothing was changed." in asked
    assert f'name="next" value="{leads_to.format(agent_id)}"' in asked
    assert "nothing was changed" not in browser.get("/sign-in").text


def test_a_person_signs_in_with_a_key_and_out_again(api: Api) -> None:
    browser = BrowserClient(api)

    response = browser.sign_in(next="/operations")

    assert (response.status_code, response.headers["Location"]) == (303, "/operations")
    assert browser.get("/").status_code == 200
    assert browser.post("/sign-out").status_code == 303
    assert browser.get("/").status_code == 303


def test_the_cookie_holds_a_token_and_is_for_this_site_s_own_requests(api: Api) -> None:
    browser = BrowserClient(api)

    cookie = browser.sign_in().headers["Set-Cookie"]

    assert cookie.startswith(f"{COOKIE}=")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert "Secure" not in cookie
    held = browser.client.get_cookie(COOKIE)
    assert held
    with api.app.test_request_context(headers={"Cookie": f"{COOKIE}={held.value}"}) as context:
        assert set(dict(context.session)) <= {"token", "until", "csrf_token", "_permanent"}
        assert api.key not in str(dict(context.session))
        token = context.session["token"]
    row = session_rows(api)[0]
    assert row.token_hash == sha256(token.encode()).hexdigest()
    assert token not in str(vars(row))


def test_behind_https_the_cookie_is_secure_and_this_host_s_alone(api: Api) -> None:
    client, https = api.app.test_client(), "https://console.example.com"
    page = client.get("/sign-in", base_url=https)
    token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    assert token

    response = client.post("/sign-in", base_url=https, data={"csrf_token": token[1], "key": api.key})

    assert response.status_code == 303
    for each in (page, response):
        name, _, attributes = each.headers["Set-Cookie"].partition("=")
        assert name == HOST_COOKIE == "__Host-trunkline_console"
        assert {"Secure", "Path=/", "HttpOnly"} <= {part.strip() for part in attributes.split(";")}
        assert "Domain" not in attributes
    assert client.get("/", base_url=https).status_code == 200


def test_over_https_a_cookie_that_a_plain_page_may_have_set_counts_for_nothing(api: Api) -> None:
    held = signed_in(api, Scope.READ).client.get_cookie(COOKIE)
    assert held
    client, host = api.client, "console.example.com"
    client.set_cookie(COOKIE, held.value, domain=host)

    assert client.get("/", base_url=f"http://{host}").status_code == 200
    assert client.get("/", base_url=f"https://{host}").status_code == 303


@pytest.mark.parametrize("key", ["", "x", "tl_" + "A" * 43, "tl_" + "A" * 500, "\x00"])
def test_a_wrong_key_is_refused_on_the_form(api: Api, key: str) -> None:
    browser = BrowserClient(api)

    response = browser.post("/sign-in", "/sign-in", key=key)

    assert response.status_code == 401
    assert "unknown or was revoked" in response.text
    assert browser.get("/").status_code == 303


def test_a_key_without_any_scope_sees_nothing(api: Api) -> None:
    assert BrowserClient(api).sign_in(api.new_key()).status_code == 403


def test_a_revoked_key_is_out_at_the_next_request(api: Api) -> None:
    browser = signed_in(api, Scope.WRITE)
    assert browser.get("/").status_code == 200

    api.revoke_key("write-person")

    assert browser.get("/").status_code == 303
    assert browser.client.get("/audit/live", headers={"X-Poll": "1"}).status_code == 401
    assert session_rows(api)[0].ended_at is not None


def test_a_forged_cookie_is_rejected(api: Api) -> None:
    browser = signed_in(api, Scope.READ)
    held = browser.client.get_cookie(COOKIE)
    assert held
    payload, _, signature = held.value.rpartition(".")
    browser.client.set_cookie(COOKIE, f"{payload}.{signature[::-1]}")

    assert browser.get("/").status_code == 303


def test_the_secret_follows_from_what_all_web_processes_share() -> None:
    here, there = (make_settings(f"postgresql://u:{word}@127.0.0.1/x") for word in ("one", "two"))

    assert cookie_secret(here) == cookie_secret(make_settings("postgresql://u:one@127.0.0.1/x"))
    assert cookie_secret(here) != cookie_secret(there)
    assert len(cookie_secret(here)) == 32


def session_rows(api: Api) -> list[ConsoleSession]:
    with api.wiring.sessions() as session:
        return list(session.scalars(select(ConsoleSession).order_by(ConsoleSession.created_at)))


def set_ages(api: Api, **ages: timedelta) -> None:
    """Set times of every session to that long ago."""
    values: Any = {name: func.now() - age for name, age in ages.items()}
    with api.wiring.sessions.begin() as session:
        session.execute(update(ConsoleSession).values(values))


def copy_of(browser: BrowserClient) -> BrowserClient:
    """Return another browser with the same cookie."""
    held = browser.client.get_cookie(COOKIE)
    assert held
    copy = BrowserClient(browser.api)
    copy.client.set_cookie(COOKIE, held.value)
    return copy


def is_signed_out(browser: BrowserClient) -> bool:
    """Return whether the cookie is refused for pages and for polling."""
    page, poll = browser.get("/"), browser.client.get("/audit/live", headers={"X-Poll": "1"})
    return (page.status_code, poll.status_code) == (303, 401)


def test_a_copied_cookie_is_worth_nothing_after_signing_out(api: Api) -> None:
    browser = signed_in(api, Scope.WRITE)
    thief = copy_of(browser)
    form = {"csrf_token": thief.token("/audit"), "name": "a"}
    assert thief.get("/").status_code == 200

    browser.post("/sign-out")

    again = copy_of(thief)
    assert thief.client.post("/", data=form).headers["Location"].startswith("/sign-in")
    assert api.count("agents") == 0
    assert is_signed_out(again)


def test_signing_in_anew_ends_the_session_before_and_its_forms(api: Api) -> None:
    browser = signed_in(api, Scope.WRITE)
    before, token = copy_of(browser), browser.token("/audit")

    browser.sign_in()

    assert is_signed_out(before)
    assert browser.client.post("/", data={"csrf_token": token, "name": "a"}).status_code == 400
    assert browser.get("/").status_code == 200


def test_signing_out_ends_one_browser_and_not_the_others(api: Api) -> None:
    one, other = BrowserClient(api), BrowserClient(api)
    one.sign_in()
    other.sign_in()

    one.post("/sign-out")

    assert other.get("/").status_code == 200


@pytest.mark.parametrize(
    ("idle", "age", "stays"),
    [
        (IDLE_LIMIT - timedelta(minutes=1), IDLE_LIMIT, True),
        (IDLE_LIMIT + timedelta(seconds=1), IDLE_LIMIT * 2, False),
        (timedelta(0), ABSOLUTE_LIMIT - timedelta(minutes=1), True),
        (timedelta(0), ABSOLUTE_LIMIT + timedelta(seconds=1), False),
    ],
)
def test_a_session_ends_when_idle_for_hours_and_after_a_week_however_busy(
    api: Api, idle: timedelta, age: timedelta, stays: bool
) -> None:
    browser = signed_in(api, Scope.READ)
    set_ages(api, last_seen_at=idle, created_at=age)

    assert is_signed_out(browser) is not stays


def test_no_response_extends_the_cookie_beyond_the_session(api: Api) -> None:
    browser = signed_in(api, Scope.WRITE)
    end = session_rows(api)[0].created_at + ABSOLUTE_LIMIT

    changed = browser.post("/", "/", name="desk").headers["Set-Cookie"]

    expires = re.search(r"Expires=([^;]+)", changed)
    assert expires
    assert abs(parsedate_to_datetime(expires[1]).astimezone(UTC) - end) <= timedelta(seconds=1)
    browser.get("/audit")  # takes the message of what was done out of it
    assert "Set-Cookie" not in browser.get("/audit").headers


def test_a_visit_is_noted_at_most_once_a_minute_and_a_poll_never(api: Api) -> None:
    browser = signed_in(api, Scope.READ)

    def seen() -> datetime:
        return session_rows(api)[0].last_seen_at

    first = seen()
    browser.get("/")
    assert seen() == first
    set_ages(api, last_seen_at=LAST_SEEN_RESOLUTION * 2)
    long_ago = seen()
    browser.client.get("/audit/live", headers={"X-Poll": "1"})
    assert seen() == long_ago
    browser.get("/")
    assert seen() > first


def test_sessions_that_are_over_are_deleted(api: Api) -> None:
    browser = signed_in(api, Scope.READ)
    sessions = ConsoleSessions(api.wiring.sessions)
    set_ages(api, created_at=ABSOLUTE_LIMIT - timedelta(minutes=1))
    assert sessions.purge() == 0
    assert browser.get("/").status_code == 200
    set_ages(api, created_at=ABSOLUTE_LIMIT + timedelta(days=2))

    assert sessions.purge() == 1


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        ("/agents/1?x=2", "/agents/1?x=2"),
        ("", "/"),
        ("https://evil.example", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/a\nb", "/"),
        ("javascript:alert(1)", "/"),
    ],
)
def test_signing_in_redirects_only_to_this_site(wanted: str, path: str) -> None:
    assert local_path(wanted) == path


@pytest.mark.parametrize("varied", ["key", "address"])
def test_wrong_keys_are_rate_limited_and_a_valid_key_is_accepted(api: Api, varied: str) -> None:
    browser = BrowserClient(api)
    token, address = browser.token(), browser.client.environ_base["REMOTE_ADDR"]

    def try_key(key: str, address: str) -> TestResponse:
        # X-Forwarded-For is ignored without TRUSTED_PROXIES.
        headers = {"X-Forwarded-For": str(uuid.uuid4())}
        base = {"REMOTE_ADDR": address}
        return browser.client.post(
            "/sign-in", data={"csrf_token": token, "key": key}, headers=headers, environ_base=base
        )

    tries = [
        try_key(f"tl_{number:09}x", address) if varied == "key" else try_key("tl_guessed_by_many", f"192.0.2.{number}")
        for number in range(22)
    ]

    assert [one.status_code for one in tries] == [401] * 20 + [429] * 2
    assert 0 < int(tries[-1].headers["Retry-After"]) <= 60
    assert "A valid key is always accepted." in tries[-1].text
    assert try_key(api.key, address).status_code == 303


@pytest.mark.parametrize("token", [None, "", "nonsense"])
@pytest.mark.parametrize("path", ["/sign-in", "/sign-out", "/", "/audit"])
def test_a_form_without_a_valid_token_does_nothing(api: Api, path: str, token: str | None) -> None:
    browser = signed_in(api, Scope.WRITE)
    fields = {"name": "a", "key": api.key} | ({} if token is None else {"csrf_token": token})

    response = browser.client.post(path, data=fields)

    assert response.status_code == 400
    assert "Nothing was changed." in response.text
    assert (api.count("agents"), api.count("audits")) == (0, 0)
    assert browser.get("/").status_code == 200


def test_the_api_ignores_cookies_and_csrf_tokens(api: Api) -> None:
    browser = signed_in(api, Scope.WRITE)

    with_cookie = browser.client.get("/api/agents")
    bearer = api.post("/api/agents", {"name": "a"})

    assert (with_cookie.status_code, with_cookie.json["code"]) == (401, "unauthenticated")
    assert bearer.status_code == 201
    assert "Set-Cookie" not in bearer.headers


@pytest.mark.parametrize("scope", list(Scope))
def test_a_scope_sees_or_acts(api: Api, scope: Scope) -> None:
    browser = signed_in(api, scope)

    seen = browser.get("/")
    acted = browser.post("/", "/", name="desk")

    may_write = scope is not Scope.READ
    assert (seen.status_code, acted.status_code) == (200, 303 if may_write else 403)
    assert ("New agent" in seen.text) == may_write
    assert api.count("agents") == int(may_write)


def test_every_response_restricts_a_browser_to_this_site(api: Api) -> None:
    browser = signed_in(api, Scope.READ)

    for path in ("/", "/sign-in", "/nonsense", "/agents/nonsense", "/console/static/console.js"):
        with browser.get(path) as response:
            policy = response.headers["Content-Security-Policy"]
        loads = dict(each.split(None, 1) for each in policy.split("; "))
        assert loads["default-src"] == "'none'", path
        assert {loads.get(what, "'self'") for what in ("script-src", "style-src", "connect-src")} == {"'self'"}, path
        assert "unsafe" not in policy
    page = browser.get("/").text
    assert not re.search(r"<script(?![^>]* src=)|\son[a-z]+=|\sstyle=|<style", page)
    assert all(
        url.startswith("/") or "127.0.0.1" in url or "localhost" in url
        for url in re.findall(r'(?:src|href)="([^"#]+)"', page)
    )


def offered(api: Api) -> str:
    """Return the token of a new link."""
    made = api.post("/api/sign-in-links")
    assert made.status_code == 201
    page, _, token = str(made.json["url"]).partition("#link=")
    assert page == "http://localhost/sign-in"
    return token


def test_a_link_signs_in_once_with_the_key_that_made_it(own_api: Api) -> None:
    token = offered(replace(own_api, key=own_api.new_key(Scope.WRITE, name="Ada")))
    browser, other = BrowserClient(own_api), BrowserClient(own_api)

    assert browser.post("/sign-in", "/sign-in", link=token, next="/operations").headers["Location"] == "/operations"
    assert "Ada" in browser.get("/").text
    again = other.post("/sign-in", "/sign-in", link=token)
    assert (again.status_code, other.get("/").status_code) == (401, 303)
    assert "was used before, or has expired" in again.text
    with own_api.wiring.sessions() as session:
        assert session.scalar(select(func.count()).select_from(SignInLink)) == 0


def test_a_link_of_two_browsers_at_once_signs_one_in(own_api: Api) -> None:
    token = offered(own_api)
    browsers = [BrowserClient(own_api) for _ in range(4)]
    forms = [(browser, browser.token()) for browser in browsers]

    with ThreadPoolExecutor(len(forms)) as pool:
        statuses = list(
            pool.map(
                lambda form: form[0].client.post("/sign-in", data={"csrf_token": form[1], "link": token}).status_code,
                forms,
            )
        )

    assert sorted(statuses) == [303, 401, 401, 401]


def test_a_link_ends_by_itself_with_its_key_and_is_stored_as_a_hash(own_api: Api) -> None:
    late, revoked = offered(own_api), replace(own_api, key=own_api.new_key(Scope.WRITE, name="gone"))
    of_revoked = offered(revoked)
    own_api.revoke_key("gone")
    with own_api.wiring.sessions.begin() as session:
        stored = set(session.scalars(select(SignInLink.token_hash)))
        assert stored == {sha256(token.encode()).hexdigest() for token in (late, of_revoked)}
        session.execute(update(SignInLink).values(expires_at=func.now() - timedelta(seconds=1)))
    for token in (late, of_revoked, "", "x" * 500, "\0"):
        assert BrowserClient(own_api).post("/sign-in", "/sign-in", link=token).status_code in {401, 422}
    ConsoleSessions(own_api.wiring.sessions).purge()
    assert own_api.count("sign_in_links") == 0


def test_a_link_needs_a_key_that_may_write(own_api: Api) -> None:
    assert replace(own_api, key=own_api.new_key(Scope.READ)).post("/api/sign-in-links").status_code == 403
    assert own_api.client.post("/api/sign-in-links").status_code == 401
