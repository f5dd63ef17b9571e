"""The README's block on the layer runs as it is written."""

import re
import runpy
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_library_section_begins_with_a_block_that_runs(tmp_path, capsys):
    section = README.read_text(encoding="utf-8").partition("\n## As a library\n")[2]
    code = re.search(r"^```python\n(.*?)^```", section, re.M | re.S)[1]
    assert len([line for line in code.splitlines() if line]) <= 12
    (tmp_path / "block.py").write_text(code, encoding="utf-8")
    runpy.run_path(str(tmp_path / "block.py"))
    assert capsys.readouterr().out == "torch.Size([1, 32760, 2, 128])\n"
