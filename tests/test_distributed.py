"""Several processes against one: gradients, teachers, sharding. Real gloo processes, float64."""
import os
import socket
import sys

import pytest
import torch
import torch.multiprocessing as mp

from tests import tiny


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def objective_of(name, folder, masks=None):
    from model.loss import LOSSES
    from tests.test_objectives import Replayed
    from trainer.objectives import OBJECTIVES
    model = tiny.miles(folder, time_init="rand")
    objective = OBJECTIVES.build({"type": name, "args": {}}, model=model,
                                 loss=LOSSES.build({"type": "NormSoftmaxLoss"})).double()
    if masks is not None:
        objective.mask = Replayed(masks)
    return objective


def rows(batch, first, last):
    return {"video": batch["video"][first:last], "text": {k: v[first:last] for k, v in batch["text"].items()}}


def unequal_masks():
    torch.manual_seed(3)
    return torch.rand(8, 4, 16) < torch.linspace(0.1, 0.9, 8)[:, None, None]


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


CASES = [(name, how, micro) for name in ("Contrastive", "MILESPretraining")
         for how, micro in (("ddp", 1), ("ddp", 2), ("fsdp2", 1), ("fsdp2", 2))]


def work(rank, world, port, folder, out):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))
    torch.set_num_threads(1)
    from trainer import distributed
    from trainer.accumulate import forward_backward
    from trainer.distributed import unwrap
    from trainer.precision import Precision
    distributed.start("cpu")
    assert (distributed.rank(), distributed.world()) == (rank, world)
    assert distributed.gather_objects(rank) == list(range(world))
    assert distributed.main_only(lambda: "here")() == ("here" if rank == 0 else None)
    big, masks, per = tiny.batch(8, dtype=torch.float64), unequal_masks(), 8 // world
    found = {}
    for name, how, micro in CASES:
        objective = distributed.wrap(objective_of(name, folder), how)
        plain = unwrap(objective)
        from tests.test_objectives import Replayed
        plain.mask = Replayed(masks[rank * per:(rank + 1) * per])
        mine, size = rows(big, rank * per, (rank + 1) * per), per // micro
        parts = forward_backward(objective, [rows(mine, i * size, (i + 1) * size) for i in range(micro)], Precision())
        result = {n: whole(p.grad) for n, p in plain.named_parameters() if p.grad is not None}
        result["loss"] = parts["loss"]
        optimizer = torch.optim.SGD([p for p in plain.parameters() if p.requires_grad], lr=0.1)
        optimizer.step()
        plain.after_step(1, 10)
        after = {n: whole(p.detach()) for n, p in plain.named_parameters()}
        found[name, how, micro] = (result, after)
    torch.save(found, f"{out}/{rank}.pt")
    distributed.stop()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_gradients_equal_those_of_one_process(world, tmp_path):
    from trainer.accumulate import forward_backward
    from trainer.precision import Precision
    folder = tiny.text_folder(tmp_path / "text")
    if world == 1:
        work(0, 1, free_port(), folder, tmp_path)
        for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(key)
    else:
        mp.spawn(work, (world, free_port(), folder, str(tmp_path)), nprocs=world)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for name in ("Contrastive", "MILESPretraining"):
        one = objective_of(name, folder, unequal_masks())
        parts = forward_backward(one, [tiny.batch(8, dtype=torch.float64)], Precision())
        grads = {n: p.grad.clone() for n, p in one.named_parameters() if p.grad is not None}
        torch.optim.SGD([p for p in one.parameters() if p.requires_grad], lr=0.1).step()
        one.after_step(1, 10)
        for (case, how, micro) in CASES:
            if case != name:
                continue
            for rank in range(world):
                got, after = found[rank][name, how, micro]
                assert abs(float(got.pop("loss")) - float(parts["loss"])) < 1e-10
                assert got.keys() == grads.keys()
                worst = max(float((got[n] - grads[n]).abs().max()) for n in grads)
                assert worst < 1e-10, (case, how, micro, rank, worst)
                for n, p in one.named_parameters():  # the teacher among them
                    assert float((after[n] - p).abs().max()) < 1e-10, (case, how, micro, n)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
