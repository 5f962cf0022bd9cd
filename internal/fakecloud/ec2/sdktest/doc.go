// Package sdktest holds the tests of the fake of EC2 that use the vendor's own
// SDK, in bubbles of fake time. They are apart from the fake, so that whoever
// fuzzes it does not have to build the SDK. It has no code of its own.
package sdktest
