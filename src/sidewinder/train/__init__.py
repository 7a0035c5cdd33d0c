"""Training: `pretrain` and `extend` run one loop that resumes to the bit.

Read in this order: schedule, optimizer, loop (one step, and what happens between steps), saves, metrics, stage.
"""
