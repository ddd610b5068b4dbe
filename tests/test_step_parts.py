"""What a trace says of the parts of a training step."""

from experiments.step_parts import scopes_of, sum_parts

COMPILED = """
  %dot.3 = f32[8,4]{1,0} dot(%a, %b), metadata={op_name="jit(f)/while/body/scores/dot_general"}
  ROOT %fusion.1 = f32[4]{0} fusion(%c), kind=kLoop, metadata={op_name="jit(f)/optimizer/add" id=3}
  %while.2 = (s32[]) while(%t), metadata={op_name="jit(f)/while/body/encoder/while"}
  %add.9 = f32[] add(%x, %y), metadata={op_name="jit(f)/while/body/encoder/while/body/add"}
  %other = f32[] add(%x, %y), metadata={op_name="jit(f)/while"}
  %copy.1 = f32[] copy(%x)
"""


def event(name, start, length, thread=1):
    return {
        "ph": "X", "pid": 1, "tid": thread, "ts": start, "dur": length, "args": {"hlo_op": name},
    }  # fmt: skip


def test_scopes_of_instructions():
    assert scopes_of(COMPILED) == {
        "dot.3": "scores",
        "fusion.1": "optimizer",
        "while.2": "encoder",
        "add.9": "encoder",
    }


def test_nested_instructions_count_once_on_each_thread():
    events = [
        event("add.9", 12.0, 3.0),  # inside of the loop
        event("while.2", 10.0, 20.0),
        event("dot.3", 30.0, 5.0),
        event("dot.3", 12.0, 7.0, thread=2),
        event("other", 0.0, 100.0),
        event("fusion.1", 40.0, 1.5),
        {"ph": "M", "pid": 1, "name": "thread_name"},
        {"ph": "X", "pid": 1, "tid": 1, "ts": 50.0, "dur": 9.0, "name": "host"},
    ]
    assert sum_parts(events, scopes_of(COMPILED)) == {
        "encoder": 20.0, "scores": 12.0, "optimizer": 1.5,
    }  # fmt: skip
