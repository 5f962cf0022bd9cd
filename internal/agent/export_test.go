package agent

// Waiting counts polls that wait, for tests.
func (a *Agent) Waiting() int { return int(a.polls.Load()) }
