"""The page of recipes.demo, built with gradio, and the server that shows it to this machine alone."""

import socket
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

HOST = "127.0.0.1"
# The browser itself stops each request to elsewhere. gradio's scripts are inline, and it compiles templates.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
ABOUT = (
    "What is heard is written below. Underlined words are unsure: their number is the model's confidence. "
    "Recordings may have any length, and stay on this machine."
)
STYLE = """
.gradio-container { max-width: 60rem !important; margin: auto }
h1 { overflow-wrap: anywhere }
.heard { font-size: 1.25rem; line-height: 2; overflow-wrap: anywhere; color: var(--body-text-color) }
.heard .unsure { border-radius: .2em; padding: .1em .15em; background: rgb(230 150 0 / calc(.5 * var(--doubt)));
  text-decoration: underline dotted 2px; text-underline-offset: .25em }
.heard .doubtful { text-decoration-style: wavy; text-decoration-thickness: 1.5px }
.heard .unsure::after { content: attr(data-percent) "%"; display: inline-block; font-size: .65em; margin-left: 1ch }
body:not(.dark) .gradio-container { --neutral-400: var(--neutral-500) }
.or { color: inherit !important }
.note[role=alert] { font-weight: 600 }
"""
# gradio's buttons with text have names that their text is not part of, so nobody can call them by what they show.
SCRIPT = """() => new MutationObserver(() => {
  for (const button of document.querySelectorAll(".upload-container[aria-label], .playback[aria-label]")) {
    button.title = button.ariaLabel
    button.removeAttribute("aria-label")
  }
}).observe(document.body, {subtree: true, childList: true, attributeFilter: ["aria-label"]})"""


def page(listen: Callable[[str | None], Iterator[str]], name: str) -> Any:
    """gradio's blocks. listen: the path of a recording -> HTML, again and again. name: the model's."""
    import gradio

    with gradio.Blocks(title=f"w2v: {name}", analytics_enabled=False) as blocks:
        gradio.HTML(f"<h1>{escape(name)}</h1><p>{ABOUT}</p>")
        with gradio.Row(equal_height=True):
            microphone = gradio.Audio(
                sources=["microphone"], type="filepath", label="Speak", editable=False, buttons=[]
            )
            file = gradio.File(label="Or drop a recording", height=150)
        heard = gradio.HTML()
        for source, event in (microphone, microphone.stop_recording), (file, file.upload):
            job = event(listen, source, heard, concurrency_id="model", api_visibility="private")
            source.clear(lambda: "", None, heard, cancels=job, queue=False, api_visibility="private")
    return blocks


def serve(blocks: Any, listener: socket.socket) -> None:
    """The page, until Ctrl-C. gradio's own launch asks other machines, and writes to stdout."""
    import gradio
    import uvicorn
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(openapi_url=None)  # whose page of documentation would load scripts from elsewhere
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])  # no other site's name may lead here
    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    gradio.mount_gradio_app(
        app, blocks, "/", HOST, footer_links=[], run_history=False, ssr_mode=False, theme=theme, css=STYLE, js=SCRIPT
    )
    headers = [("Content-Security-Policy", POLICY)]
    config = uvicorn.Config(app, log_level="error", headers=headers, timeout_graceful_shutdown=1)
    uvicorn.Server(config).run([listener])
