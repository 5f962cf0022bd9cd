package agent

// Waiting counts polls that wait, for tests.
func (a *Agent) Waiting() int { return int(a.polls.Load()) }

// Ending says whether the present stage is being destroyed, or is destroyed.
func (a *Agent) Ending() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stage.destroyed
}
