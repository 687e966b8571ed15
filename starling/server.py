"""The server: routes, who may ask, and answers that end when nobody listens any more."""

import asyncio
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from typing import TypeVar

from aiohttp import web

from starling import chat, packing, server_replies
from starling.addresses import is_loopback
from starling.api_requests import MAX_CHOICES, Chat, Completion, Refused, Room, Sampled, Scores, read
from starling.device import seed_for
from starling.engine import Closing, Engine
from starling.errors import DataError, ModelError, StarlingError
from starling.generate import Request
from starling.models import Model
from starling.offer import Offer
from starling.pieces import Pieces
from starling.reward import RewardModel
from starling.rollout import own_settings
from starling.server_replies import Choice, Envelope

MAX_BODY_BYTES = 16 * 2**20
AGAIN_SECONDS = 5  # after which whoever found no room may come again
PLAIN_COMPLETION_TOKENS = 16  # of /v1/completions without max_tokens, as OpenAI's API has it

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
OnPiece = Callable[[int, str, str | None], Awaitable[None]]
Kind = TypeVar("Kind", Chat, Completion, Scores)


class Server:
    """OpenAI's chat and plain completions of a policy, and `/v1/score` of a reward model.

    `key` is the token that every request must bring, "" for none. Then only requests to `hosts`, this machine's own
    names, are taken: a page of the web whose name was made to point here must not ask in its visitor's place. `most` is
    how many answers may wait or be under way when a request comes; a call for rewards counts as one.
    """

    def __init__(
        self, offer: Offer, engine: Engine, policy: Model | None, reward: RewardModel | None, key: str, *, most: int
    ) -> None:
        self._offer = offer
        self._engine = engine
        self._policy = policy
        self._reward = reward
        self._key = key
        self._most = most
        self._open = 0
        self._started = int(time.time())

    def app(self) -> web.Application:
        """The application to run."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guarded])
        app.add_routes(
            [
                web.get("/v1/models", self._models),
                web.get("/v1/models/{name:.+}", self._model),
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/completions", self._complete),
                web.post("/v1/score", self._score),
            ]
        )
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in whom the token lets in; write what went wrong as OpenAI's clients read it."""
        try:
            self._admit(request)
            return await handler(request)
        except Refused as error:
            again = None if error.again_seconds is None else {"Retry-After": str(error.again_seconds)}
            return _failed(str(error), error.status, error.code, error.param, again)
        except (DataError, ModelError) as error:  # what is wrong with a prompt or an answer
            return _failed(str(error), 400)
        except StarlingError as error:
            return _failed(str(error), _status(error))
        except web.HTTPException as error:
            return _failed(f"{request.method} {request.path}: {error.reason}", error.status)

    def _admit(self, request: web.Request) -> None:
        if self._key:
            brought = request.headers.get("Authorization", "")
            if not hmac.compare_digest(brought.encode(errors="replace"), f"Bearer {self._key}".encode()):
                raise Refused(
                    "the token is missing or wrong; send it as the API key", status=401, code="invalid_api_key"
                )
        elif not is_loopback(request.url.host or ""):
            raise Refused("without a token only this machine's own names are served", status=403)

    async def _models(self, request: web.Request) -> web.Response:
        names = [name for name in (self._offer.policy_name, self._offer.reward_name) if name]
        return web.json_response(server_replies.models(names, self._started))

    async def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in (self._offer.policy_name, self._offer.reward_name):
            raise _unknown(name, [self._offer.policy_name, self._offer.reward_name])
        return web.json_response(server_replies.models([name], self._started)["data"][0])

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        asked = await _read(Chat, request)
        policy = self._speaking(asked.model)
        prompts = [chat.prompt_ids(policy.tokenizer, asked.turns)]
        return await self._answer(request, asked, prompts, asked.limit)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        asked = await _read(Completion, request)
        policy = self._speaking(asked.model)
        size = policy.network.config.vocab_size
        prompts = []
        for prompt in asked.prompts:
            ids = chat.text_ids(policy.tokenizer, prompt) if isinstance(prompt, str) else tuple(prompt)
            if not ids or not all(0 <= token < size for token in ids):
                raise Refused(f"a prompt is to have at least one token, each from 0 to {size - 1}", param="prompt")
            prompts.append(ids)
        if not prompts or len(prompts) * (asked.n or 1) > MAX_CHOICES:
            raise Refused(f"1 to {MAX_CHOICES} answers in a request; these would be {len(prompts) * (asked.n or 1)}")
        return await self._answer(request, asked, prompts, asked.max_tokens or PLAIN_COMPLETION_TOKENS)

    async def _score(self, request: web.Request) -> web.Response:
        asked = await _read(Scores, request)
        scorer, name = self._reward, self._offer.reward_name
        if scorer is None:
            raise Refused("there is no reward model here; start the server with a run or --reward MODEL", status=404)
        if asked.model not in (None, name):
            raise _unknown(asked.model, [name])
        prompts, answers = asked.prompts, [row.answers for row in asked.inputs]
        with self._room_for(1):
            found = await self._engine.call(lambda: scorer.score(prompts, answers, scaled=asked.scaled))
        return web.json_response(server_replies.rewards(name, found))

    def _speaking(self, name: str) -> Model:
        if self._policy is None or name != self._offer.policy_name:
            raise _unknown(name, [self._offer.policy_name])
        return self._policy

    async def _answer(
        self, request: web.Request, asked: Sampled, prompts: Sequence[tuple[int, ...]], wanted: int | None
    ) -> web.StreamResponse:
        envelope = Envelope(model=asked.model, chat=isinstance(asked, Chat))
        wishes = self._wishes(asked, prompts, wanted)
        prompt_tokens = sum(map(len, prompts))
        with self._room_for(len(wishes)):
            if asked.stream:
                return await self._stream(request, asked, envelope, wishes, prompt_tokens)
            choices = [Choice(index=index) for index in range(len(wishes))]
            await self._fill(choices, wishes, asked.stops, _unheard)
            return web.json_response(envelope.whole(choices, prompt_tokens))

    @contextmanager
    def _room_for(self, answers: int) -> Iterator[None]:
        """Counts answers for as long as they wait or are under way; who finds too many there is sent away."""
        if self._open >= self._most:
            raise Refused(
                f"{self._open:,} answers wait or are under way here, and from {self._most:,} on no more are taken; "
                f"come again in {AGAIN_SECONDS} s",
                status=429,
                code="rate_limit_exceeded",
                again_seconds=AGAIN_SECONDS,
            )
        self._open += answers
        try:
            yield
        finally:
            self._open -= answers

    async def _stream(
        self,
        request: web.Request,
        asked: Sampled,
        envelope: Envelope,
        wishes: Sequence[tuple[Request, int]],
        prompt_tokens: int,
    ) -> web.StreamResponse:
        choices = [Choice(index=index) for index in range(len(wishes))]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)

        async def send(index: int, text: str, finish: str | None) -> None:
            await response.write(server_replies.event(envelope.chunk(index, text, finish)))

        with suppress(ConnectionError):  # the client is gone: nobody is left to tell
            try:
                await self._fill(choices, wishes, asked.stops, send)
                if asked.with_usage:
                    await response.write(server_replies.event(envelope.last_chunk(choices, prompt_tokens)))
                await response.write(server_replies.DONE)
            except StarlingError as error:  # too late for a status
                await response.write(server_replies.event(server_replies.error(str(error), _status(error))))
        return response

    def _wishes(
        self, asked: Sampled, prompts: Sequence[tuple[int, ...]], wanted: int | None
    ) -> list[tuple[Request, int]]:
        """Each answer that is wanted, with its token cap."""
        assert self._policy is not None
        window, own = packing.window(self._policy.network.config), own_settings(self._policy.network)
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        return [
            (
                Request(
                    prompt=prompt,
                    seed=seed_for(seed, number, draw),
                    temperature=own["temperature"] if asked.temperature is None else asked.temperature,
                    top_p=own["top_p"] if asked.top_p is None else asked.top_p,
                ),
                Room(window=window, prompt_tokens=len(prompt)).limit(wanted),
            )
            for number, prompt in enumerate(prompts)
            for draw in range(asked.n or 1)
        ]

    async def _fill(
        self, choices: Sequence[Choice], wishes: Sequence[tuple[Request, int]], stops: Sequence[str], on_piece: OnPiece
    ) -> None:
        """Answer every wish into its choice; `on_piece` hears of each piece. Whatever ends this ends the answers."""
        try:
            async with asyncio.TaskGroup() as group:
                for choice, wish in zip(choices, wishes, strict=True):
                    group.create_task(self._fill_one(choice, *wish, stops, on_piece))
        except* ConnectionError as errors:
            raise errors.exceptions[0] from None
        except* StarlingError as errors:
            raise errors.exceptions[0] from None

    async def _fill_one(
        self, choice: Choice, request: Request, limit: int, stops: Sequence[str], on_piece: OnPiece
    ) -> None:
        assert self._policy is not None
        pieces = Pieces(self._policy.tokenizer, stops)
        async with aclosing(self._engine.tokens(request, limit)) as answer:
            async for drawn in answer:
                choice.tokens += 1
                text = pieces.feed(drawn.token) + (pieces.end() if drawn.ended else "")
                if drawn.ended or pieces.stopped:
                    choice.finish = "stop" if drawn.finished or pieces.stopped else "length"
                choice.text += text
                if text or choice.finish:
                    await on_piece(choice.index, text, choice.finish)
                if choice.finish:
                    break


async def _unheard(index: int, text: str, finish: str | None) -> None:
    """Nobody listens before the whole answer is there."""


async def _read(kind: type[Kind], request: web.Request) -> Kind:
    if request.content_type != "application/json":  # a page of the web cannot send this without being asked first
        raise Refused("send the body as application/json", status=415)
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        raise Refused("the body is no JSON") from None
    return read(kind, body)


def _unknown(name: str | None, known: Sequence[str]) -> Refused:
    there = ", ".join(other for other in known if other) or "none for this address"
    return Refused(
        f"there is no model {name!r} here; there is {there}", status=404, code="model_not_found", param="model"
    )


def _status(error: StarlingError) -> int:
    return 503 if isinstance(error, Closing) else 500


def _failed(
    message: str,
    status: int,
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    return web.json_response(server_replies.error(message, status, code, param), status=status, headers=headers)
