// Package testreport reads the reports that test runners leave, JUnit's XML and
// TRX, makes a table of them for people, and sends them to a test service.
//
// It refuses to know steps: who calls it says where to look and where to send.
package testreport
