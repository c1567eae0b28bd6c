// Package acceptance holds tests of the whole: they run the headrace binary as a user
// would and compare what comes out with computations of their own.
//
// A test here trusts nothing of the product but its command line. Captures are taken
// apart and put together by the test (internal/packet builds the headers), expected
// rows are made with maps and math/big, byte by byte, and nothing below dataplane or
// controlplane is imported, except that generated streams are compared with the
// generator's own account of them.
//
// HEADRACE_BINARY names a binary to test instead of the one built from the tree;
// HEADRACE_RUNNER a program to run it with (an emulator). The tests in arch compare builds for
// several processors.
package acceptance
