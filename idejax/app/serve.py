"""`idejax app` serves the page on this machine only. A visitor's token gives access to their files and no others."""

import os
import re
import socket
from pathlib import Path
from typing import Any

from idejax import config
from idejax.errors import UserError, tell
from idejax.runtime.progress import waiting

HOST = "127.0.0.1"
_FILES = re.compile(r"comic\.(?:png|pdf|cbz|html|json)|pages/\d{3}\.jpg|panels/[A-Za-z0-9-]+\.png")
_TYPES = {
  "png": "image/png",
  "jpg": "image/jpeg",
  "pdf": "application/pdf",
  "cbz": "application/vnd.comicbook+zip",
  "html": "text/html; charset=utf-8",
  "json": "application/json",
}
_PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def main(c: config.App):
  # ---- What is asked ---------------------------------------------------------------------------
  try:
    import gradio  # noqa: F401 - before the model is read
    import uvicorn
  except ImportError as e:
    raise UserError(f'the page needs {e.name}: pip install -e ".[app]"') from e
  if c.addon:
    from idejax.personalizing import posers

    posers.find(c.addon)
  listener = _listen(c.port)
  from idejax.runtime import cores

  cores.use(c.model)
  from idejax.app import samples, studio

  # ---- Model and sample people -----------------------------------------------------------------
  with waiting("reading the model"):
    desk = studio.open_studio(c.people, c.model, c.pack, c.clip, tell, c.addon)
  samples.add(desk)

  # ---- The page --------------------------------------------------------------------------------
  app = application(desk, c.out)
  tell(f"open http://{HOST}:{listener.getsockname()[1]} in a browser; Ctrl-C ends it")
  server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3))
  server.run(sockets=[listener])


def application(desk: Any, out: Path) -> Any:
  """The page and the files as one ASGI application."""
  uploads = (out / ".uploads").resolve()
  uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
  os.environ["GRADIO_TEMP_DIR"] = str(uploads)
  import gradio as gr
  from fastapi import FastAPI, HTTPException
  from fastapi.responses import FileResponse
  from starlette.middleware.trustedhost import TrustedHostMiddleware

  from idejax.app import learn, page
  from idejax.app.visitors import Visitors

  visitors = Visitors(out, desk.store)
  app = FastAPI(openapi_url=None)
  app.add_middleware(
    TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]
  )  # so that no other site's host name can reach the page

  @app.get("/comic/{token}/{name:path}")
  def comic_file(token: str, name: str):
    v = visitors.find(token)
    if v is None or not _FILES.fullmatch(name) or not (v.comic / name).is_file():
      raise HTTPException(404)
    return FileResponse(v.comic / name, media_type=_TYPES[name.rsplit(".", 1)[1]], headers=_PRIVATE)

  @app.get("/people/{token}/{slug}.png")
  def portrait(token: str, slug: str):
    v = visitors.find(token)
    path = v.folder / "store" / slug / "portrait.png" if v and re.fullmatch(r"[a-z0-9_]+", slug) else None
    if path is None or not path.is_file():
      raise HTTPException(404)
    return FileResponse(path, media_type="image/png", headers=_PRIVATE)

  @app.get("/openapi.json")
  def no_index():  # Gradio would list all its addresses there
    raise HTTPException(404)

  @app.get("/fonts/{name}")
  def font(name: str):
    if name not in ("ComicNeue-Bold.otf", "ComicNeue-Regular.otf"):
      raise HTTPException(404)
    return FileResponse(Path(__file__).parent / "fonts" / name, media_type="font/otf")

  blocks = page.build(desk, visitors)
  return gr.mount_gradio_app(
    app,
    blocks,
    path="/",
    server_name=HOST,
    allowed_paths=[],
    show_error=False,
    max_file_size=learn.MOST_BYTES,
    ssr_mode=False,
    footer_links=[],
    theme=page.THEME,
    css=page.CSS,
  )


def _listen(port: int) -> socket.socket:
  """A socket on this machine. UserError if the port is taken."""
  s = socket.socket()
  s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    s.bind((HOST, port))
  except OSError as e:
    s.close()
    raise UserError(f"port {port} cannot be used ({e.strerror}): choose another --port, or 0") from e
  return s
