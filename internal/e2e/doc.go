// Package e2e tests the two programs from outside, as their users meet them:
// built binaries, a real store, real virtual machines on this host, real
// signals. It lives in test files with the build tag e2e; `make test` runs it.
package e2e
