#!/bin/sh
# Makes the TPM samples of this directory with swtpm and tpm2-tools: quotes and certifications by an ECDSA and an RSASSA
# attestation key, endorsement keys with certificates of a local authority, and a credential made by tpm2_makecredential.
#
#   apt-get install swtpm swtpm-tools tpm2-tools openssl xxd
#   verifier/tests/evidence/tpm2/make.sh
#
# Keys and nonces are new at each run; the tests read whatever the files say, so a new set needs no other change.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'kill "$swtpm" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$work/state"
swtpm socket --tpm2 --tpmstate "dir=$work/state" --flags startup-clear \
    --server "type=unixio,path=$work/tpm" --ctrl "type=unixio,path=$work/tpm.ctrl" &
swtpm=$!
sleep 1
export TPM2TOOLS_TCTI="swtpm:path=$work/tpm"
flush() { tpm2_flushcontext -t; }

# The digest that the evidence is bound to, and PCR 7 with something in it.
printf 'keywitness test context' | openssl dgst -sha256 -binary > context.bin
tpm2_pcrextend "7:sha256=$(printf 'boot policy' | openssl dgst -sha256 -r | cut -d' ' -f1)"

openssl ecparam -name prime256v1 -genkey -noout -out "$work/ca.key"
openssl req -new -x509 -key "$work/ca.key" -sha256 -days 7300 -subj '/CN=Keywitness test EK authority' \
    -addext 'basicConstraints=critical,CA:TRUE,pathlen:0' -addext 'keyUsage=critical,keyCertSign,cRLSign' \
    -outform der -out ca.der
openssl x509 -inform der -in ca.der -out "$work/ca.pem"
{
    echo 'basicConstraints=critical,CA:FALSE'
    echo 'extendedKeyUsage=2.23.133.8.1'
    echo 'subjectAltName=critical,dirName:tpm'
    echo '[tpm]'
    echo 'a.2.23.133.2.1=id:00001014'
    echo 'a.2.23.133.2.2=swtpm'
    echo 'a.2.23.133.2.3=id:20191023'
} > "$work/ek.ext"

for kind in ecc rsa; do
    case $kind in ecc) scheme=ecdsa;; rsa) scheme=rsassa;; esac
    tpm2_createek -G "$kind" -c "$work/ek.ctx" -u "$work/ek.tpm2b"
    tail -c +3 "$work/ek.tpm2b" > "$kind.ek-public"
    tpm2_readpublic -c "$work/ek.ctx" -f pem -o "$work/ek.pem" >/dev/null
    openssl x509 -new -force_pubkey "$work/ek.pem" -CA "$work/ca.pem" -CAkey "$work/ca.key" -sha256 -days 7200 \
        -subj '/' -extfile "$work/ek.ext" -outform der -out "$kind.ek-certificate.der"
    flush
    tpm2_createak -C "$work/ek.ctx" -c "$work/ak.ctx" -G "$kind" -g sha256 -s "$scheme" -u "$work/ak.tpm2b" -n "$kind.ak-name" >/dev/null
    tail -c +3 "$work/ak.tpm2b" > "$kind.ak-public"
    flush
    tpm2_quote -c "$work/ak.ctx" -l sha256:0,1,2,4,7 -q "$(xxd -p -c 64 context.bin)" -g sha256 \
        -m "$kind.quote" -s "$kind.quote-signature" -o "$kind.pcrs" -F values >/dev/null
    flush
    tpm2_createprimary -C o -g sha256 -G ecc -c "$work/parent.ctx" >/dev/null
    tpm2_create -C "$work/parent.ctx" -G ecc256:ecdsa-sha256 -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign' \
        -u "$work/key.tpm2b" -r "$work/key.priv" >/dev/null
    flush
    tpm2_load -C "$work/parent.ctx" -u "$work/key.tpm2b" -r "$work/key.priv" -c "$work/key.ctx" >/dev/null
    tail -c +3 "$work/key.tpm2b" > "$kind.key-public"
    flush
    tpm2_certify -C "$work/ak.ctx" -c "$work/key.ctx" -g sha256 -o "$kind.certify" -s "$kind.certify-signature"
    tpm2_readpublic -c "$work/key.ctx" -f der -o "$kind.key-spki.der" >/dev/null
    flush
    # A key that the TPM may duplicate: it must be refused.
    tpm2_create -C "$work/parent.ctx" -G ecc256:ecdsa-sha256 -a 'sensitivedataorigin|userwithauth|sign' \
        -u "$work/loose.tpm2b" -r "$work/loose.priv" >/dev/null
    flush
    tpm2_load -C "$work/parent.ctx" -u "$work/loose.tpm2b" -r "$work/loose.priv" -c "$work/loose.ctx" >/dev/null
    tail -c +3 "$work/loose.tpm2b" > "$kind.loose-public"
    flush
    tpm2_certify -C "$work/ak.ctx" -c "$work/loose.ctx" -g sha256 -o "$kind.loose-certify" -s "$kind.loose-certify-signature"
    tpm2_readpublic -c "$work/loose.ctx" -f der -o "$kind.loose-spki.der" >/dev/null
    flush
    # An answered credential: what tpm2_makecredential sealed to the EK is what the TPM gave back. A copy sealed to a software
    # key of the same shape lets the test open it without a TPM.
    case $kind in
        ecc) openssl ecparam -name prime256v1 -genkey -noout -out "$work/soft.key";;
        rsa) openssl genrsa -out "$work/soft.key" 2048 2>/dev/null;;
    esac
    openssl pkcs8 -topk8 -nocrypt -in "$work/soft.key" -outform der -out "$kind.soft-key.der"
    openssl pkey -in "$work/soft.key" -pubout -out "$work/soft.pem"
    printf 'the secret of a test credential.' > secret.bin
    tpm2_makecredential -T none -Q -G "$kind" -u "$work/soft.pem" -s secret.bin -n "$(xxd -p -c 64 "$kind.ak-name")" -o "$kind.credential"
done
