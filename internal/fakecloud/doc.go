// Package fakecloud has what the strict fakes of clouds have in common: how a
// client reaches them without a socket, the faults they can be told to have, the
// rates they allow, and the books they keep. The fakes themselves are in the
// packages below.
//
// A fake is an http.Handler that refuses what the cloud would refuse and keeps
// the time of the clock it is given, so that hours of it pass in a test's
// bubble. It starts no goroutine: what a machine is now is reckoned when
// somebody looks.
package fakecloud
