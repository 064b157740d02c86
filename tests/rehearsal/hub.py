"""A Hub on the loopback: what huggingface_hub, transformers and datasets ask of the real one."""

import base64
import hashlib
import json
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

LARGE = (".safetensors", ".parquet", ".model", ".tgz")  # stored as LFS does, whatever their size
CHUNK = 1 << 16  # bytes


def file_sum(path: Path, kind: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


class Repository:
    "Commits of a repository: a folder of files each."

    def __init__(self, folder: Path):
        self.folder, self.gated, self.branches, self.sums = folder, False, {}, {}

    def add(self, commit: str, branch: str = "main") -> Path:  # to be filled
        self.branches[branch] = commit
        place = self.folder / commit
        place.mkdir(parents=True, exist_ok=True)
        return place

    def commit(self, revision: str) -> str | None:
        commit = self.branches.get(revision, revision)
        return commit if (self.folder / commit).is_dir() else None

    def files(self, commit: str) -> list:  # paths in the repository
        place = self.folder / commit
        return sorted(p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file())

    def entry(self, commit: str, name: str) -> dict:  # as the Hub's tree lists a file
        path = self.folder / commit / name
        size = path.stat().st_size
        if (path, size) not in self.sums:
            kind = "sha256" if path.suffix in LARGE else "sha1"
            self.sums[path, size] = file_sum(path, kind)
        found = {"type": "file", "path": name, "size": size, "oid": self.sums[path, size][:40]}
        if path.suffix in LARGE:
            found["lfs"] = {"oid": self.sums[path, size], "size": size, "pointerSize": 134}
        return found


def refusal(status: int, code: str, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status, {"X-Error-Code": code, "X-Error-Message": text})


def bounds(
    asked: str | None, size: int
) -> tuple:  # the bytes that a Range header asks for, [start, end)
    if not asked:
        return 0, size
    start, _, end = asked.removeprefix("bytes=").partition("-")
    return int(start), int(end) + 1 if end else size


def served(path: Path, request, cut: bool = False) -> Response:
    "Send a file or a part of it; `cut`: end the connection in the middle."
    size = path.stat().st_size
    start, end = bounds(request.headers.get("range"), size)
    if start >= size > 0:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})

    def body():
        with open(path, "rb") as file:
            file.seek(start)
            left = (end - start) // 2 if cut else end - start
            while left > 0:
                chunk = file.read(min(CHUNK, left))
                left -= len(chunk)
                yield chunk
        if cut:
            raise ConnectionAbortedError("cut, as was asked for")

    part = "range" in request.headers
    headers = {"Content-Length": str(end - start), "Accept-Ranges": "bytes"}
    if part:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    if request.method == "HEAD":
        return Response(status_code=206 if part else 200, headers=headers)
    return StreamingResponse(body(), 206 if part else 200, headers)


class Hub:
    "Repositories by kind and name, what is asked of them, and the faults that are still to come."

    def __init__(self, folder: Path, token: str = "hf_rehearsal"):
        self.folder, self.token = Path(folder), token
        self.repositories, self.uploads = {}, {}
        self.asked, self.faults, self.once = Counter(), {}, set()
        self.on_content, self.on_upload = lambda path: None, lambda: None # what else happens then
        self.app = Starlette(routes=self.routes())

    def serve_files(self, top: str, folder: Path):
        "Serve a folder's files, too: Oxford's server."

        async def file(request):
            path = folder / request.path_params["name"]
            if not path.is_file():
                return Response("not here", 404)
            return served(path, request, request.method == "GET" and self.fault(path.name) == "cut")

        self.app.routes.insert(0, Route(f"{top}/{{name}}", file, methods=["GET", "HEAD"]))

    def repository(self, name: str, kind: str = "model") -> Repository:
        "Return a repository; make it where it is new."
        place = self.folder / f"{kind}s" / name
        return self.repositories.setdefault((kind, name), Repository(place))

    def routes(self) -> list:
        named = "{kind:str}s/{owner}/{name}"
        both = ["GET", "HEAD"]
        return [
            Route("/api/whoami-v2", self.whoami),
            Route("/api/validate-yaml", self.valid, methods=["POST"]),
            Route("/api/repos/create", self.create, methods=["POST"]),
            Route(f"/api/{named}/preupload/{{revision}}", self.preupload, methods=["POST"]),
            Route(f"/api/{named}/commit/{{revision}}", self.take, methods=["POST"]),
            Route(f"/api/{named}/paths-info/{{revision}}", self.paths, methods=["POST"]),
            Route(f"/api/{named}/tree/{{revision}}", self.tree),
            Route(f"/api/{named}/tree/{{revision}}/{{path:path}}", self.tree),
            Route(f"/api/{named}/revision/{{revision}}", self.info),
            Route(f"/api/resolve-cache/{named}/{{revision}}/{{path:path}}", self.content, methods=both),
            Route(f"/api/{named}", self.info),
            Route("/lfs/{kind}/{owner}/{name}/{revision}/{path:path}", self.content, methods=both),
            Route("/lfs-upload/{oid}", self.upload, methods=["PUT"]),
            Route("/datasets/{owner}/{name}.git/info/lfs/objects/batch", self.batch, methods=["POST"]),
            Route("/{owner}/{name}.git/info/lfs/objects/batch", self.batch, methods=["POST"]),
            Route("/datasets/{owner}/{name}/resolve/{revision}/{path:path}", self.resolve, methods=both),
            Route("/{owner}/{name}/resolve/{revision}/{path:path}", self.resolve, methods=both),
        ]

    def found(self, request) -> tuple:  # (repository, commit, None) or (None, None, a refusal)
        "Find what a request is about, or say as the Hub does why not."
        where = request.path_params
        kind = where.get("kind") or ("dataset" if request.url.path.startswith("/datasets/") else "model")
        name = f"{where['owner']}/{where['name']}"
        self.asked[f"{request.method} {name}"] += 1
        known = self.repositories.get((kind, name))
        if known is None:
            return None, None, refusal(401, "RepoNotFound", "Repository not found")
        if known.gated and self.token not in request.headers.get("authorization", ""):
            text = (
                f"Access to model {name} is restricted. You must have access to it and be authenticated"
            )
            return None, None, refusal(401, "GatedRepo", text)
        revision = where.get("revision", "main")
        commit = known.commit(revision)
        if commit is None:
            return None, None, refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return known, commit, None

    def fault(self, path: str) -> str:  # "" or a kind of fault, each once
        for ending, kind in self.faults.items():
            if path.endswith(ending) and (ending, kind) not in self.once:
                self.once.add((ending, kind))
                return kind
        return ""

    async def whoami(self, request):
        if self.token not in request.headers.get("authorization", ""):
            return refusal(401, "", "Invalid username or password.")
        return JSONResponse(
            {
                "type": "user",
                "name": "someone",
                "orgs": [],
                "auth": {"accessToken": {"displayName": "rehearsal", "role": "write"}},
            }
        )

    async def valid(self, request):
        return JSONResponse({"errors": [], "warnings": []})

    async def info(self, request):
        known, commit, no = self.found(request)
        if no:
            return no
        name = "{owner}/{name}".format(**request.path_params)
        entries = [known.entry(commit, f) for f in known.files(commit)]
        whole = request.query_params.get("blobs", "").lower() in ("true", "1")
        files = [{"rfilename": e["path"]}
                 | ({"size": e["size"], "blobId": e["oid"]} if whole else {}) for e in entries]
        return JSONResponse(
            {
                "_id": commit[:24],
                "id": name,
                "modelId": name,
                "sha": commit,
                "private": False,
                "gated": known.gated and "manual",
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": files,
                "lastModified": "2026-01-01T00:00:00.000Z",
            }
        )

    async def tree(self, request):
        known, commit, no = self.found(request)
        if no:
            return no
        top = request.path_params.get("path", "").strip("/")
        inside = [f for f in known.files(commit) if not top or f.startswith(f"{top}/")]
        if not inside and top:
            return refusal(404, "EntryNotFound", f"{top} does not exist")
        deep = request.query_params.get("recursive", "").lower() in ("true", "1")
        rest = lambda f: f[len(top) + 1 :] if top else f
        folders = sorted({f"{top}/{rest(f).split('/')[0]}".strip("/") for f in inside if "/" in rest(f)})
        files = [known.entry(commit, f) for f in inside if deep or "/" not in rest(f)]
        return JSONResponse(
            [{"type": "directory", "path": f, "size": 0, "oid": commit} for f in folders] + files
        )

    async def paths(self, request):
        known, commit, no = self.found(request)
        if no:
            return no
        asked = (await request.json()).get("paths", [])
        there = known.files(commit)
        folder = lambda p: {"type": "directory", "path": p, "size": 0, "oid": commit}
        found = [
            known.entry(commit, p) if p in there else folder(p)
            for p in asked
            if p in there or any(f.startswith(f"{p}/") for f in there)
        ]
        return JSONResponse(found)

    async def resolve(self, request):
        "Point to a file's content: large ones elsewhere, with their size and sum; small ones by commit."
        known, commit, no = self.found(request)
        if no:
            return no
        path = request.path_params["path"]
        if request.method == "GET" and self.fault(path) == "503":
            return Response("try again", 503, {"Retry-After": "1"})
        if path not in known.files(commit):
            return refusal(404, "EntryNotFound", f"Entry not found: {path}")
        entry, where = known.entry(commit, path), request.path_params
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        kind = "dataset" if request.url.path.startswith("/datasets/") else "model"
        if "lfs" in entry:
            headers |= {"X-Linked-Size": str(entry["size"]), "X-Linked-Etag": f'"{entry["lfs"]["oid"]}"'}
            place = f"/lfs/{kind}/{where['owner']}/{where['name']}/{commit}/{path}"
            # another address, as the Hub's storage has one
            return RedirectResponse(f"{str(request.base_url).rstrip('/')}{place}", 302, headers)
        place = f"/api/resolve-cache/{kind}s/{where['owner']}/{where['name']}/{commit}/{path}"
        return RedirectResponse(place, 307, headers | {"ETag": f'"{entry["oid"]}"'})

    async def content(self, request):
        known, commit, no = self.found(request)
        if no:
            return no
        path = request.path_params["path"]
        entry = known.entry(commit, path)
        cut = request.method == "GET" and self.fault(path) == "cut"
        if request.method == "GET": self.on_content(path)
        reply = served(known.folder / commit / path, request, cut)
        reply.headers["ETag"] = f'"{entry.get("lfs", entry)["oid"]}"'
        reply.headers["X-Repo-Commit"] = commit
        return reply

    async def create(self, request):
        asked = await request.json()
        if self.token not in request.headers.get("authorization", ""):
            return refusal(401, "", "Invalid username or password.")
        name = f"{asked.get('organization') or 'someone'}/{asked['name'].split('/')[-1]}"
        kind = asked.get("type") or "model"
        top = "" if kind == "model" else f"{kind}s/"
        found = {"url": f"{request.base_url}{top}{name}", "name": name}
        if (kind, name) in self.repositories:
            return JSONResponse(found | {"error": "You already created this repo"}, 409)
        self.repository(name, kind).add("0" * 40)
        return JSONResponse(found)

    async def preupload(self, request):
        files = (await request.json())["files"]
        mode = lambda path: "lfs" if Path(path).suffix in LARGE else "regular"
        return JSONResponse(
            {
                "files": [
                    {"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False}
                    for f in files
                ]
            }
        )

    async def batch(self, request):
        objects = [
            {
                "oid": o["oid"],
                "size": o["size"],
                "actions": {"upload": {"href": f"{request.base_url}lfs-upload/{o['oid']}"}},
            }
            for o in (await request.json())["objects"]
        ]
        return JSONResponse(
            {"transfer": "basic", "objects": objects}, media_type="application/vnd.git-lfs+json"
        )

    async def upload(self, request):
        oid = request.path_params["oid"]
        self.on_upload()
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != oid:
            return Response("other content", 422)
        self.uploads[oid] = content
        return Response()

    async def take(self, request):
        "Make a commit of the newest one and what is sent."
        known, before, no = self.found(request)
        if no:
            return no
        if self.token not in request.headers.get("authorization", ""):
            return refusal(403, "", "You are not allowed to write here")
        lines = [json.loads(line) for line in (await request.body()).splitlines() if line.strip()]
        commit = hashlib.sha1(json.dumps([before, lines]).encode()).hexdigest()
        files = {name: (known.folder / before / name).read_bytes() for name in known.files(before)}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.uploads[value["oid"]]
            if line["key"] == "deletedFile":
                files.pop(value["path"], None)
        place = known.add(commit)
        for name, content in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
        name = "{owner}/{name}".format(**request.path_params)
        return JSONResponse(
            {
                "success": True,
                "commitOid": commit,
                "commitUrl": f"{request.base_url}{name}/commit/{commit}",
            }
        )


@contextmanager
def serving(app, port: int = 0):  # yields the address
    "Serve an application on the loopback."
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", lifespan="off"))
    ready = threading.Event()
    begin = server.startup

    async def startup(sockets=None):
        await begin(sockets)
        ready.set()

    server.startup = startup
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
