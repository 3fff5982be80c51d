"""Answers that try to run code in a notebook, or to control a terminal."""

SCRIPT = "window.attacked = 1"

MARKUP = [
    f"<script>{SCRIPT}</script>",
    f"<ScRiPt\n>{SCRIPT}</ScRiPt>",
    f"<img src=x onerror='{SCRIPT}'>",
    f"<img src=x\nonerror={SCRIPT.replace(' ', '')}//",
    f"<iframe srcdoc='<script>parent.{SCRIPT}</script>'></iframe>",
    f"<svg/onload={SCRIPT.replace(' ', '')}>",
    f"<details open ontoggle='{SCRIPT}'>x</details>",
    "<style>body { display: none }</style>",
    "<form action=javascript:window.attacked=1><button>x</button></form>",
    "<base href=//localhost:1/>",
    "<meta http-equiv=refresh content='0;url=javascript:window.attacked=1'>",
    f"<math><mi xlink:href='javascript:{SCRIPT}'>x</mi></math>",
    f"<!-- --><script>{SCRIPT}</script><!-- -->",
    f"<!--\n--!><script>{SCRIPT}</script>",
    f"<? ><script>{SCRIPT}</script> ?>",
    f"<![CDATA[ ><script>{SCRIPT}</script> ]]>",
    f"<!DOCTYPE x><script>{SCRIPT}</script>",
    f"\\<script>{SCRIPT}</script>",
    f"\\\\<script>{SCRIPT}</script>",
    f"`<script>` <script>{SCRIPT}</script> `",
    f"``` <script>{SCRIPT}</script> ``",
    f"```\n<script>{SCRIPT}</script>",
    f'```x"><script>{SCRIPT}</script>\ny\n```',
    f"~~~' onclick='{SCRIPT}\ny\n~~~",
    f"    <script>{SCRIPT}</script>",
    f"- a\n\n      <script>{SCRIPT}</script>",
    f"> <div>\n<script>{SCRIPT}</script>",
    f"| a |\n|---|\n| <script>{SCRIPT}</script> |",
    f"# <script>{SCRIPT}</script>",
    f"&lt;script&gt;{SCRIPT}&lt;/script&gt;",
    f"&#60;script&#62;{SCRIPT}&#x3c;/script>",
    f"<scr\0ipt>{SCRIPT}</scr\0ipt>",
    f"<scr\u202eipt>{SCRIPT}</scr\u202eipt>",
    f"<<script>{SCRIPT}//<</script>",
    f'[a]: <x> "</a><script>{SCRIPT}</script>"\n\n[a]',
    f"**<script>{SCRIPT}**</script>",
]

LINKS = [
    f"[click](javascript:{SCRIPT.replace(' ', '')})",
    f"[click](<javascript:{SCRIPT}>)",
    "[click](JaVaScRiPt:window.attacked=1)",
    "[click](&#106;avascript:window.attacked=1)",
    "[click](java&#10;script:window.attacked=1)",
    "[click](java\\script:window.attacked=1)",
    "[click](\x01javascript:window.attacked=1)",
    "[click](java\u202escript:window.attacked=1)",
    "[click](%6aavascript:window.attacked=1)",
    "[click](vbscript:x)",
    "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "[click](file:///etc/passwd)",
    "[click](/logout)",
    "[click](//localhost:1/x)",
    "![click](javascript:window.attacked=1)",
    "![click](data:image/svg+xml;base64,PHN2Zz4=)",
    "![click](/logout)",
    "![click](\\\\localhost\\x)",
    "[click]\n\n[click]: javascript:window.attacked=1",
    "[click][1]\n\n[1]: <javascript:window.attacked=1> 'title'",
    "<javascript:window.attacked=1>",
    "[![click](javascript:1)](javascript:window.attacked=1)",
    "[a](http://x \"' onmouseover='window.attacked=1\")",
    '[a](http://x"onmouseover="window.attacked=1)',
    '![" onerror="window.attacked=1](http://x)',
]

TEX = [
    "$\\href{javascript:window.attacked=1}{click}$",
    "$$\\href{javascript:window.attacked=1}{click}$$",
    "\\\\[\\href{javascript:window.attacked=1}{click}\\\\]",
    "$\\style{position: fixed; inset: 0}{x}$ $\\class{jp-Dialog}{x}$ $\\cssId{main}{x}$",
    "$\\unicode[onerror=1]{x202e}$ $\\require{html}$",
]

ALL = [*MARKUP, *LINKS, *TEX]

CONTROLS = "".join(
    [
        "\x1b]0;title\x07",  # sets the window title
        "\x1b]52;c;cm0gLXJm\x07",  # writes to the clipboard
        "\x1b[2J\x1b[31m",  # clears the screen, sets a colour
        "\x9b31m\x9d0;title\x9c\x90q\x9c",  # the same as single-byte (C1) controls
        "\x7f\x00\b\v\f",
        "\u202e\u202a\u2066\u2069\u200e\u200f\u061c",  # text direction
        "\u2028\u2029",  # line separators
    ]
)
UNSAFE = frozenset(CONTROLS) - frozenset("]0;title52;c;cm0gLXJm[2J[31m31m0;titleq")
