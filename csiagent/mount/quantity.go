package mount

import (
	"errors"
	"math/big"
	"regexp"
)

// Why a text is no whole number of bytes.
var (
	ErrQuantity = errors.New("not a quantity")
	ErrInexact  = errors.New("not a whole number that fits")
)

// grammar is Kubernetes': a decimal number with an exponent or a suffix.
var grammar = regexp.MustCompile(`^([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))([eE][+-]?[0-9]{1,3}|[numkMGTPE]|[KMGTPE]i)?$`)

var suffixes = map[string]string{
	"": "1", "n": "1e-9", "u": "1e-6", "m": "1e-3", "k": "1e3", "M": "1e6", "G": "1e9", "T": "1e12", "P": "1e15", "E": "1e18",
	"Ki": "1024", "Mi": "1048576", "Gi": "1073741824", "Ti": "1099511627776", "Pi": "1125899906842624", "Ei": "1152921504606846976",
}

// Quantity is a whole number as Kubernetes writes quantities, such as 64Mi. Kubernetes' own package for them would cost each agent that idles
// in a pod more than half a megabyte. The error is ErrQuantity or ErrInexact.
func Quantity(text string) (int64, error) {
	parts := grammar.FindStringSubmatch(text)
	if parts == nil {
		return 0, ErrQuantity
	}
	number, factor := parts[1], suffixes[parts[2]]
	if factor == "" {
		factor = "1" + parts[2] // an exponent
	}
	n, okN := new(big.Rat).SetString(number)
	by, okF := new(big.Rat).SetString(factor)
	if !okN || !okF {
		return 0, ErrQuantity
	}
	if n.Mul(n, by); !n.IsInt() || !n.Num().IsInt64() {
		return 0, ErrInexact
	}
	return n.Num().Int64(), nil
}
