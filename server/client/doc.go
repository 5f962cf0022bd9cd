// Package client calls a runner: its own /v1 for the command line and tests,
// and the delegate API for load and end-to-end tests. It reaches a runner over
// TCP or over the admin socket of its data directory.
package client
