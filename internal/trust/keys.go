package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
)

// PEM types of private keys.
const (
	pemEncrypted    = "ENCRYPTED SIGSTORE PRIVATE KEY"
	pemEncryptedOld = "ENCRYPTED COSIGN PRIVATE KEY"
	pemPKCS8        = "PRIVATE KEY"
	pemEC           = "EC PRIVATE KEY"
	pemPublic       = "PUBLIC KEY"
)

// maxKeys bounds the keys of one file.
const maxKeys = 100

var errSignature = errors.New("the signature is not this key's")

// PublicKey verifies. Name says in messages which one it is.
type PublicKey struct {
	ID   string // the beginning of the SHA-256 of its SubjectPublicKeyInfo
	Name string
	key  crypto.PublicKey
}

// PublicKeys reads PEM blocks "PUBLIC KEY"; name is where they come from.
func PublicKeys(text []byte, name string) ([]PublicKey, error) {
	var keys []PublicKey
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			break
		}
		switch b.Type {
		case pemPublic:
		case pemPKCS8, pemEC, pemEncrypted, pemEncryptedOld:
			return nil, fmt.Errorf("%s holds a private key: give the public one", name)
		default:
			return nil, fmt.Errorf("%s holds a %q, want a PUBLIC KEY", name, b.Type)
		}
		k, err := x509.ParsePKIXPublicKey(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		switch k.(type) {
		case *ecdsa.PublicKey, *rsa.PublicKey, ed25519.PublicKey:
		default:
			return nil, fmt.Errorf("%s: keys of type %T sign no images", name, k)
		}
		keys = append(keys, PublicKey{ID: keyID(b.Bytes), Name: name, key: k})
		if len(keys) > maxKeys {
			return nil, fmt.Errorf("%s holds more than %d keys", name, maxKeys)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s holds no public key in PEM form", name)
	}
	return keys, nil
}

func keyID(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:8])
}

// verify checks a signature over message as cosign makes them: over SHA-256
// with every kind of key, or for larger ECDSA keys over the hash of their size.
func (k PublicKey) verify(message, sig []byte) error {
	sum := sha256.Sum256(message)
	ok := false
	switch key := k.key.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(key, sum[:], sig)
		if !ok && key.Curve == elliptic.P384() {
			big := sha512.Sum384(message)
			ok = ecdsa.VerifyASN1(key, big[:], sig)
		}
		if !ok && key.Curve == elliptic.P521() {
			big := sha512.Sum512(message)
			ok = ecdsa.VerifyASN1(key, big[:], sig)
		}
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig) == nil
	case ed25519.PublicKey:
		ok = ed25519.Verify(key, message, sig)
	}
	if !ok {
		return errSignature
	}
	return nil
}

// PrivateKey signs.
type PrivateKey struct {
	ID     string
	signer crypto.Signer
}

// ReadPrivateKey reads a PEM block. password is asked for only when the key is
// encrypted.
func ReadPrivateKey(text []byte, name string, password func() ([]byte, error)) (*PrivateKey, error) {
	b, _ := pem.Decode(text)
	if b == nil {
		return nil, fmt.Errorf("%s holds no key in PEM form", name)
	}
	der := b.Bytes
	switch b.Type {
	case pemEC:
		k, err := x509.ParseECPrivateKey(der)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return newPrivateKey(k)
	case pemEncrypted, pemEncryptedOld:
		pass, err := password()
		if err != nil {
			return nil, err
		}
		if der, err = encrypted.Decrypt(der, pass); err != nil {
			return nil, fmt.Errorf("%s cannot be decrypted: the password is wrong, or the file is damaged", name)
		}
	case pemPKCS8:
	case pemPublic:
		return nil, fmt.Errorf("%s holds a public key: signing needs the private one", name)
	default:
		return nil, fmt.Errorf("%s holds a %q, want a private key", name, b.Type)
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: keys of type %T sign no images", name, k)
	}
	return newPrivateKey(s)
}

func newPrivateKey(s crypto.Signer) (*PrivateKey, error) {
	spki, err := x509.MarshalPKIXPublicKey(s.Public())
	if err != nil {
		return nil, err
	}
	return &PrivateKey{ID: keyID(spki), signer: s}, nil
}

// Sign signs message as cosign does.
func (k *PrivateKey) Sign(message []byte) ([]byte, error) {
	if _, ok := k.signer.(ed25519.PrivateKey); ok {
		return k.signer.Sign(rand.Reader, message, crypto.Hash(0))
	}
	sum := sha256.Sum256(message)
	return k.signer.Sign(rand.Reader, sum[:], crypto.SHA256)
}

// Generate makes an ECDSA P-256 pair in PEM form, the private key encrypted
// with password (which may be empty, as cosign allows).
func Generate(password []byte) (private, public []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	if der, err = encrypted.Encrypt(der, password); err != nil {
		return nil, nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemEncrypted, Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: spki}), nil
}
