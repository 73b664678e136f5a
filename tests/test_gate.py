"""The values that docs/write/gate.py puts back: at the chosen tokens, along the direction, and nowhere else."""

import small_stage
import torch

from docs.write import gate


@torch.no_grad()
def test_values_are_put_back_along_the_direction_alone() -> None:
    task = small_stage.make_task()
    model = small_stage.make_model(task)
    for parameter in model.parameters():  # biases and scales of an untrained model are 0 and 1
        parameter += 0.1 * torch.randn_like(parameter)
    rows = task.rows(kind="question", subset=("d1_consistent", "d2_consistent"))[:200]
    tokens = task.tokens[torch.from_numpy(rows)]
    at = torch.from_numpy(task.position_of("alias", rows))
    chosen = torch.unique(tokens[torch.arange(len(rows)), at])[::2]
    reference = gate.values(model, [3, 4]).mean(0).flatten()
    direction = torch.nn.functional.normalize(torch.randn(len(reference)), dim=0)

    def seen() -> torch.Tensor:
        _, cache = model.run_with_cache(tokens, names_filter="blocks.0.attn.hook_v")
        return cache["blocks.0.attn.hook_v"].flatten(2)

    before = seen()
    bias = model.blocks[0].attn.b_V.flatten()
    torch.testing.assert_close(
        before[torch.arange(len(rows)), at] - bias,
        gate.values(model, tokens[torch.arange(len(rows)), at].tolist()).flatten(1),
    )
    with gate.put_back(model, chosen, direction, reference):
        after = seen()
    assert torch.equal(seen(), before)
    hit = torch.isin(tokens, chosen)
    assert hit.any()
    assert torch.equal(after[~hit], before[~hit])
    wanted = ((reference + bias) @ direction).expand(int(hit.sum()))
    torch.testing.assert_close(after[hit] @ direction, wanted)
    moved = after[hit] - before[hit]
    torch.testing.assert_close(moved, (moved @ direction)[:, None] * direction)
    assert moved.abs().max() > 0.01
