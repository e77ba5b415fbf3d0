// Mint makes tokens with the API server's own code, as TokenRequest does for a pod, for the transcript of 64 bytes 0x09.
//
// Built within a module that requires k8s.io/kubernetes and replaces its staging modules with their releases:
//
//	mint rsa-2048.pk8 > kubernetes-1.34.json
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

const issuer = "https://kubernetes.default.svc.cluster.local"

type vector struct {
	Configuration json.RawMessage `json:"openid-configuration"`
	Keys          json.RawMessage `json:"jwks"`
	Token         string          `json:"token"`
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func mint(key, public any) vector {
	object := func(name, uid string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Namespace: "carrick-system", UID: types.UID(uid)}
	}
	account := core.ServiceAccount{ObjectMeta: object("carrick-node", "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798")}
	pod := core.Pod{ObjectMeta: object("carrick-node-x7k2p", "5e0bd49b-f040-43b0-99b7-22765a53f7f3")}
	node := core.Node{ObjectMeta: metav1.ObjectMeta{Name: "east-1", UID: "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1"}}
	transcript := make([]byte, 64)
	for i := range transcript {
		transcript[i] = 9
	}
	audience := []string{"carrick/" + base64.RawURLEncoding.EncodeToString(transcript)}
	claims, private, err := serviceaccount.Claims(account, &pod, nil, &node, 600, 0, audience)
	if err != nil {
		panic(err)
	}
	generator := must(serviceaccount.JWTTokenGenerator(issuer, key))
	token := must(generator.GenerateToken(context.Background(), claims, private))
	getter := must(serviceaccount.StaticPublicKeysGetter([]any{public}))
	provider := must(serviceaccount.NewOpenIDMetadataProvider(issuer, issuer+"/openid/v1/jwks", "", getter))
	configuration, _ := provider.GetConfigJSON()
	keys, _ := provider.GetKeysetJSON()
	return vector{configuration, keys, token}
}

func main() {
	pkcs8 := must(os.ReadFile(os.Args[1]))
	parsed := must(x509.ParsePKCS8PrivateKey(pkcs8)).(*rsa.PrivateKey)
	ec := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode([]vector{mint(parsed, &parsed.PublicKey), mint(ec, &ec.PublicKey)}); err != nil {
		panic(err)
	}
}
