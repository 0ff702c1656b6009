"""Generation: repeatable by its seed, without touching the random state, in the order of the problems."""

import torch

from perception_r1.training.generation import generate
from perception_r1.training.policy import load_policy, new_miniature, probe_prompt
from perception_r1.world import make_problems, map_world


def test_generation_is_repeatable_and_keeps_its_prefix():
    policy, problems = new_miniature(0), make_problems(6, map_world(seed=100), "test")
    short = {"batch_size": 4, "max_new_tokens": 5, "quiet": True}
    torch.manual_seed(7)
    sampled = [generate(*policy, problems, greedy=False, seed=s, **short) for s in (1, 1, 2)]
    state = torch.random.get_rng_state()
    assert sampled[0] == sampled[1] != sampled[2]
    assert torch.equal(state, torch.manual_seed(7).get_state())
    begun = generate(*policy, problems, prefix=[f"{k} + " for k in range(6)], **short)
    assert [text[:4] for text in begun] == [f"{k} + " for k in range(6)]
    assert len(generate(*policy, problems, prompts=[probe_prompt("AB")] * 6, **short)) == 6


def test_responses_come_in_the_order_of_the_problems():
    policy = load_policy("miniature")
    problems = make_problems(12, map_world(seed=100), "test")
    alone = [generate(*policy, [p], quiet=True)[0] for p in problems]
    assert generate(*policy, problems, batch_size=5, quiet=True) == alone
