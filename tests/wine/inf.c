/* Reads INF files with the setupapi.dll it runs on, and prints what that found, one fact a line, fields split by tabs.

   inf.exe LIST     LIST: UTF-8 lines "architecture TAB path", the architecture as INFs decorate it (NTamd64)

   INF path
   VERSION driverver-date driverver-version catalogue class class-guid
   MODELS section                                    a section of models that exists: base, base.decoration
   MODEL section description install-section id...
   INSTALL install-section the-section-that-is-used
   SERVICE used-section service flags service-type start-type error-control binary

   SetupDiGetActualSectionToInstall knows the architecture it runs on only; for another, its rule (NAME.NTarch, NAME.NT,
   NAME) is applied here to the sections setupapi finds. */

#include <stdio.h>
#include <stdlib.h>
#include <windows.h>
#include <setupapi.h>

#define LONGEST 4096

static void put(const wchar_t *text)
{
    static char out[3 * LONGEST];
    WideCharToMultiByte(CP_UTF8, 0, text, -1, out, sizeof out, NULL, NULL);
    printf("\t%s", out);
}

static wchar_t *field(INFCONTEXT *line, DWORD number, wchar_t *out)
{
    out[0] = 0;
    SetupGetStringFieldW(line, number, out, LONGEST, NULL);
    return out;
}

static wchar_t *setting(HINF inf, const wchar_t *section, const wchar_t *key, DWORD number, wchar_t *out)
{
    INFCONTEXT line;
    out[0] = 0;
    if (SetupFindFirstLineW(inf, section, key, &line))
        field(&line, number, out);
    return out;
}

static int exists(HINF inf, const wchar_t *section)
{
    return SetupGetLineCountW(inf, section) >= 0;
}

static void used(HINF inf, const wchar_t *arch, const wchar_t *name, wchar_t *out)
{
    if (!lstrcmpiW(arch, L"NTamd64") && SetupDiGetActualSectionToInstallW(inf, name, out, LONGEST, NULL, NULL))
        return;
    swprintf(out, LONGEST, L"%ls.%ls", name, arch);
    if (!exists(inf, out))
        swprintf(out, LONGEST, L"%ls.NT", name);
    if (!exists(inf, out))
        swprintf(out, LONGEST, L"%ls", name);
}

static void services(HINF inf, const wchar_t *install)
{
    static wchar_t section[LONGEST], text[LONGEST], service[LONGEST];
    const wchar_t *const keys[] = {L"ServiceType", L"StartType", L"ErrorControl", L"ServiceBinary"};
    INFCONTEXT line;
    swprintf(section, LONGEST, L"%ls.Services", install);
    for (BOOL more = SetupFindFirstLineW(inf, section, L"AddService", &line); more;
         more = SetupFindNextMatchLineW(&line, L"AddService", &line)) {
        printf("SERVICE");
        put(install);
        put(field(&line, 1, text));
        put(field(&line, 2, text));
        field(&line, 3, service);
        for (int i = 0; i < 4; i++)
            put(setting(inf, service, keys[i], 1, text));
        printf("\n");
    }
}

static void models(HINF inf, const wchar_t *arch, const wchar_t *section)
{
    static wchar_t install[LONGEST], actual[LONGEST], text[LONGEST];
    INFCONTEXT line;
    if (!exists(inf, section))
        return;
    printf("MODELS");
    put(section);
    printf("\n");
    for (DWORD i = 0; SetupGetLineByIndexW(inf, section, i, &line); i++) {
        printf("MODEL");
        put(section);
        put(field(&line, 0, text));
        put(field(&line, 1, install));
        for (DWORD id = 2; id <= SetupGetFieldCount(&line); id++)
            put(field(&line, id, text));
        used(inf, arch, install, actual);
        printf("\nINSTALL");
        put(install);
        put(actual);
        printf("\n");
        services(inf, actual);
    }
}

static void read_inf(const wchar_t *arch, const wchar_t *path)
{
    static wchar_t text[LONGEST], base[LONGEST], section[2 * LONGEST];
    UINT at = 0;
    INFCONTEXT line;
    printf("INF");
    put(path);
    printf("\n");
    HINF inf = SetupOpenInfFileW(path, NULL, INF_STYLE_WIN4, &at);
    if (inf == INVALID_HANDLE_VALUE) {
        printf("ERROR\t%lx\t%u\n", GetLastError(), at);
        return;
    }
    printf("VERSION");
    put(setting(inf, L"Version", L"DriverVer", 1, text));
    put(setting(inf, L"Version", L"DriverVer", 2, text));
    put(setting(inf, L"Version", L"CatalogFile", 1, text));
    put(setting(inf, L"Version", L"Class", 1, text));
    put(setting(inf, L"Version", L"ClassGuid", 1, text));
    printf("\n");
    for (DWORD i = 0; SetupGetLineByIndexW(inf, L"Manufacturer", i, &line); i++) {
        field(&line, SetupGetFieldCount(&line) ? 1 : 0, base);
        models(inf, arch, base);
        for (DWORD decoration = 2; decoration <= SetupGetFieldCount(&line); decoration++) {
            swprintf(section, 2 * LONGEST, L"%ls.%ls", base, field(&line, decoration, text));
            models(inf, arch, section);
        }
    }
    SetupCloseInfFile(inf);
}

int main(int count, char **words)
{
    static char line[3 * LONGEST];
    static wchar_t wide[LONGEST];
    FILE *list = count > 1 ? fopen(words[1], "rb") : NULL;
    if (!list)
        return 2;
    while (fgets(line, sizeof line, list)) {
        line[strcspn(line, "\r\n")] = 0;
        MultiByteToWideChar(CP_UTF8, 0, line, -1, wide, LONGEST);
        wchar_t *path = wcschr(wide, L'\t');
        if (path) {
            *path = 0;
            read_inf(wide, path + 1);
        }
    }
    return 0;
}
