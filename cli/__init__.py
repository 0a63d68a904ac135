"""The command `hiprobe`: the stages' commands put together."""
