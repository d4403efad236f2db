/* Prints the SHA-1 thumbprints of the certificates that crypt32.dll finds in stores of the local machine.

   certificates.exe Root TrustedPublisher      prints "store thumbprint", one certificate a line */

#include <stdio.h>
#include <windows.h>
#include <wincrypt.h>

int main(int count, char **names)
{
    wchar_t name[64];
    for (int i = 1; i < count; i++) {
        MultiByteToWideChar(CP_UTF8, 0, names[i], -1, name, 64);
        HCERTSTORE store = CertOpenStore(CERT_STORE_PROV_SYSTEM_W, 0, 0,
                                         CERT_SYSTEM_STORE_LOCAL_MACHINE | CERT_STORE_READONLY_FLAG, name);
        if (!store)
            return 1;
        for (PCCERT_CONTEXT one = NULL; (one = CertEnumCertificatesInStore(store, one));) {
            BYTE hash[20];
            DWORD size = sizeof hash;
            if (!CryptHashCertificate(0, CALG_SHA1, 0, one->pbCertEncoded, one->cbCertEncoded, hash, &size))
                return 1;
            printf("%s ", names[i]);
            for (DWORD at = 0; at < size; at++)
                printf("%02X", hash[at]);
            printf("\n");
        }
        CertCloseStore(store, 0);
    }
    return 0;
}
