// Package attacks does to a real gateway what a hostile tenant would, from outside with its key and tokens and from inside as root of a
// sandbox, and looks whether anything of the machine, of other tenants or of the volumes gives way. Everything is in its tests; they
// need root and built programs (`make unit` has both).
package attacks
