// Package agent runs a stage's steps inside a machine and serves them over
// the interface of agentapi: set up, start a step, wait for it, read its
// output, destroy.
//
// An [Agent] is one machine's. It keeps one table of steps, keyed by the
// caller's ids, so that every call may be repeated: a second start does
// nothing, a result can be asked for again and by many at once, output is read
// by offset. A setup after a destroy starts a new table.
//
// Steps run on the machine itself, each in a session of its own that is ended
// as a whole, or in containers of the machine's Docker daemon (package
// containers). What a step prints is masked and kept in a bounded file, so a
// reader that stalls holds up nobody, and neither does a log service it also
// goes to.
//
// The package refuses to know pools, runners and clouds.
package agent
