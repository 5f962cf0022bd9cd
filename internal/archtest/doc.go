// Package archtest holds tests about the tree as a whole: which package may
// import which, what no file may contain, and that the documentation names only
// packages, commands, variables, make targets and states that exist. It has no
// code of its own.
package archtest
