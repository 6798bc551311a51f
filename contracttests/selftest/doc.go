// Package selftest tests the contract suite: it breaks a runtime in one way after
// another, and each time the case of the broken obligation must fail, and no other.
package selftest
