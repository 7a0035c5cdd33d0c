"""Training stages as jobs: submitted once, watched, found again, and started anew where they were cut off.

A stage waits in a small process, the controller (`sidewinder launch`, which the rules call). It writes down what it is
about to do before it does it, so that another controller goes on from there whenever this one is killed. The job is
its own master: it saves before its time is up, queues itself again, and goes on from the save, controller or none.

Read in this order: ask (what a stage asks for), ledger (what was done), submit, rank (what runs in each task), control.
"""
