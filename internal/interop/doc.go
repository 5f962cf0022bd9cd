// Package interop tests each of our programs against the other side as existing
// programs of the protocol are: our agent behind an existing runner, by the very
// bytes such a one sends, and our runner in front of an existing agent, by a
// script of what such a one does, its traps included. It is test files only; the
// exchanges are golden files in testdata.
package interop
