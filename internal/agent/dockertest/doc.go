// Package dockertest gives tests a Docker daemon: a [Fake] in the test's own
// process, for faults no real one shows on demand, and with the build tag
// "docker" a real one, by Start, in namespaces of its own, so that neither the
// host's firewall nor its containers are touched.
package dockertest

// Image is an image every real daemon has: busybox and nothing else.
const Image = "dockertest:1"
